"""The decisions' embeddings: made by a provider, and indexed in the background."""

from tracker_daemon.embeddings.backfill import backfill, count_lacking
from tracker_daemon.embeddings.choice import provider_of
from tracker_daemon.embeddings.filling import PromptEmbeddings
from tracker_daemon.embeddings.index import EmbeddingIndex
from tracker_daemon.embeddings.isolation import probe
from tracker_daemon.embeddings.provider import Kind, Provider, ProviderFailed, TextRefused
from tracker_daemon.embeddings.texts import TextEmbedder

__all__ = [
    "EmbeddingIndex",
    "Kind",
    "PromptEmbeddings",
    "Provider",
    "ProviderFailed",
    "TextEmbedder",
    "TextRefused",
    "backfill",
    "count_lacking",
    "probe",
    "provider_of",
]
