"""The vector index of the decisions' embeddings: kept in the background, and asked for what is near."""

from tracker_daemon.embeddings.index import EmbeddingIndex
from tracker_daemon.embeddings.nearest import Neighbour, nearest

__all__ = ["EmbeddingIndex", "Neighbour", "nearest"]
