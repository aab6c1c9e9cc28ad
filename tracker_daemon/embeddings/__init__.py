"""The decisions' embeddings: made by a provider, indexed in the background, and asked for what is near."""

from tracker_daemon.embeddings.backfill import backfill, count_lacking
from tracker_daemon.embeddings.choice import provider_of
from tracker_daemon.embeddings.filling import PromptEmbeddings
from tracker_daemon.embeddings.index import EmbeddingIndex
from tracker_daemon.embeddings.isolation import probe
from tracker_daemon.embeddings.nearest import Neighbour, nearest
from tracker_daemon.embeddings.provider import Kind, Provider, ProviderFailed, TextRefused

__all__ = [
    "EmbeddingIndex",
    "Kind",
    "Neighbour",
    "PromptEmbeddings",
    "Provider",
    "ProviderFailed",
    "TextRefused",
    "backfill",
    "count_lacking",
    "nearest",
    "probe",
    "provider_of",
]
