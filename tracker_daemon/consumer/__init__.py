"""NATS, in the daemon known here alone: messages come in through this room, acknowledgements go out."""

from nats.aio.client import Client

from tracker_daemon.consumer.connection import connect, disconnect, finish, publish_surely
from tracker_daemon.consumer.core import CoreConsumer
from tracker_daemon.consumer.jetstream import JetStreamConsumer
from tracker_daemon.consumer.reading import Standing, StreamReading, open_reading
from tracker_daemon.consumer.stream import (
    DUPLICATE_WINDOW_SECONDS,
    consumer_losses,
    consumer_refusals,
    consumer_risks,
    missing_subjects,
    redundant_filters,
    subjects,
)

Consumer = JetStreamConsumer | CoreConsumer

__all__ = [
    "DUPLICATE_WINDOW_SECONDS",
    "Client",
    "Consumer",
    "CoreConsumer",
    "JetStreamConsumer",
    "Standing",
    "StreamReading",
    "connect",
    "consumer_losses",
    "consumer_refusals",
    "consumer_risks",
    "disconnect",
    "finish",
    "missing_subjects",
    "open_reading",
    "publish_surely",
    "redundant_filters",
    "subjects",
]
