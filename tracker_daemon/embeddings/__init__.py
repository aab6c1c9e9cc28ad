"""The decisions' embeddings: made by a provider, and indexed in the background."""

from tracker_daemon.embeddings.backfill import backfill, estimate
from tracker_daemon.embeddings.choice import provider_of
from tracker_daemon.embeddings.filling import PromptEmbeddings
from tracker_daemon.embeddings.index import EmbeddingIndex
from tracker_daemon.embeddings.isolation import probe
from tracker_daemon.embeddings.prompts import LACKING, Which, of_models
from tracker_daemon.embeddings.provider import Kind, Provider, ProviderFailed, TextRefused
from tracker_daemon.embeddings.texts import TextEmbedder

__all__ = [
    "LACKING",
    "EmbeddingIndex",
    "Kind",
    "PromptEmbeddings",
    "Provider",
    "ProviderFailed",
    "TextEmbedder",
    "TextRefused",
    "Which",
    "backfill",
    "estimate",
    "of_models",
    "probe",
    "provider_of",
]
