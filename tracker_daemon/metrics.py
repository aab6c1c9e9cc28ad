"""Every Prometheus metric of the daemon; labels come from closed sets, or from a bounded list of names."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tracker_daemon import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import Metric

registry: Final = CollectorRegistry()
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)
GCCollector(registry=registry)


known_subjects: Final[set[str]] = set()
"""The subjects that may be labels: those of the settings."""


def subject_label(subject: str) -> str:
    """The subject as a label; whatever else a foreign consumer delivers is `other`."""
    return subject if subject in known_subjects else "other"


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"tracker_{name}", text, labels, registry=registry)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"tracker_{name}", text, labels, registry=registry)


def _histogram(name: str, text: str, *buckets: float) -> Histogram:
    return Histogram(f"tracker_{name}", text, buckets=buckets, registry=registry)


class Tally(Collector):
    """A counter by subject that costs an addition; its samples are made when it is scraped."""

    def __init__(self, name: str, text: str) -> None:
        """Register it, with nothing counted."""
        self._name, self._text = name, text
        self._counts: Counts[str] = Counts()
        registry.register(self)

    def declare(self, subject: str) -> None:
        """Begin a series at 0."""
        self._counts[subject] += 0

    def add(self, subject: str) -> None:
        """Count one message of this subject."""
        self._counts[subject_label(subject)] += 1

    def collect(self) -> Iterator[Metric]:
        """Make the samples of a scrape."""
        family = CounterMetricFamily(self._name, self._text, labels=["subject"])
        for label, count in self._counts.items():
            family.add_metric([label], count)
        yield family


class Distribution(Collector):
    """A histogram that takes many values at once, each at a tenth of the cost of prometheus_client's own."""

    def __init__(self, name: str, text: str, *buckets: float) -> None:
        """Register it, with nothing observed."""
        self._name, self._text, self._bounds = name, text, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: Sequence[float]) -> None:
        """Count each value in its bucket."""
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += sum(values)

    def collect(self) -> Iterator[Metric]:
        """Make the samples of a scrape."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


messages_received = Tally("tracker_messages_received", "Messages taken from NATS")
messages_settled = _counter(
    "messages_settled_total",
    "Messages whose fate is decided: stored, duplicate, dead_letter, expired (older than what was pruned), "
    "or released (left to the stream)",
    "subject",
    "result",
)
rows_committed = _counter("rows_committed_total", "Rows committed", "table")
pruned_rows = _counter("pruned_rows_total", "Rows deleted because of their age", "table")
dead_letters = _counter("dead_letters_total", "Dead letters committed", "subject", "reason")
redeliveries = _counter("redeliveries_total", "Messages that the stream delivered more than once")
stream_gap_messages = _counter(
    "stream_gap_messages_total",
    "Messages that the stream dropped (expired, purged) before they were delivered",
)
flushes = _counter("flushes_total", "Batches flushed, by what triggered them", "trigger")
flush_seconds = _histogram(
    "flush_seconds",
    "Time from taking a batch to its commit",
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
batch_rows = _histogram(
    "batch_rows", "Messages in a batch", 1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 100000
)
publish_to_commit_seconds = Distribution(
    "tracker_publish_to_commit_seconds",
    "Age of a message at its commit, by the clocks of stream and daemon",
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
buffered_rows = _gauge("buffered_rows", "Messages held in memory")
buffered_bytes = _gauge("buffered_bytes", "Payload bytes held in memory")
buffered_bytes_limit = _gauge("buffered_bytes_limit", "Payload bytes that may be held in memory")
stream_pending = _gauge("stream_pending", "Messages in the stream that were not delivered yet")
writer_retries = _counter("writer_retries_total", "Writes tried again, by what stood in the way", "kind")
paused = _gauge(
    "paused", "1 while writing waits for an operator: schema or grants are wrong, or too much is rejected"
)
ready = _gauge("ready", "1 while nothing stands in the way, as in /readyz")
_TURN_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1)
event_loop_turn_seconds = Distribution(
    "tracker_event_loop_turn_seconds",
    "Time for which one turn of the event loop let nothing else happen",
    *_TURN_BOUNDS,
)
event_loop_turn_cpu_seconds = Distribution(
    "tracker_event_loop_turn_cpu_seconds",
    "CPU time of that turn: what is missing to the time, the machine gave to others",
    *_TURN_BOUNDS,
)
nats_connected = _gauge("nats_connected", "1 while connected to NATS")
postgres_up = _gauge("postgres_up", "1 while the last contact with PostgreSQL succeeded")
last_commit_timestamp_seconds = _gauge("last_commit_timestamp_seconds", "Unix time of the last commit")
outcomes_waiting = _gauge("outcomes_waiting", "Outcomes whose decision has not come")
outcomes_waiting_oldest_seconds = _gauge("outcomes_waiting_oldest_seconds", "Age of the oldest of them")
embedding_index_waiting = _gauge(
    "embedding_index_waiting", "Decisions whose embedding is not in the vector index yet"
)
embeddings_waiting = _gauge("embeddings_waiting", "Decisions whose embedding is still to be made")
embeddings_made = _counter(
    "embeddings_made_total", "Embeddings that the provider made and decisions were given"
)
embedding_failures = _counter(
    "embedding_failures_total", "Batches, or single texts, of which no embeddings could be made", "kind"
)
text_index_waiting = _gauge("text_index_waiting", "Decisions that are not in the index of texts yet")
situation_index_waiting = _gauge(
    "situation_index_waiting",
    "Decisions that are not in the index of situations yet, or have an old place there",
)
resolved_decisions = _gauge(
    "resolved_decisions", "Latest decisions of an agent or model that succeeded or failed", "scope", "name"
)
resolved_success_rate = _gauge("resolved_success_rate", "Successes among those", "scope", "name")
resolved_success_rate_lower = _gauge(
    "resolved_success_rate_lower", "Lower end of the 99 % Wilson interval of that rate", "scope", "name"
)
resolved_success_rate_upper = _gauge(
    "resolved_success_rate_upper", "Upper end of the 99 % Wilson interval of that rate", "scope", "name"
)
queries = _counter(
    "queries_total",
    "Questions answered over NATS, by what they were answered with: 200, or the code of an error",
    "endpoint",
    "code",
)
query_seconds = Histogram(
    "tracker_query_seconds",
    "Time from a question's arrival to its answer, errors included",
    ["endpoint"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=registry,
)
selection_rulings = _counter(
    "selection_rulings_total", "Candidates of selections that were benched, tried again or promoted", "ruling"
)
brier_score = _gauge(
    "brier_score", "Mean squared distance of confidence and outcome, 0 the best", "scope", "name"
)
decision_latency_p95_seconds = _gauge(
    "decision_latency_p95_seconds", "95th percentile of the model's latency", "scope", "name"
)
decision_cost_mean_usd = _gauge("decision_cost_mean_usd", "Mean cost of a decision", "scope", "name")
scores: Final = (
    resolved_decisions,
    resolved_success_rate,
    resolved_success_rate_lower,
    resolved_success_rate_upper,
    brier_score,
    decision_latency_p95_seconds,
    decision_cost_mean_usd,
)
"""Those of agents and models: at most 50 of each, which the scores choose."""
slow_consumer_drops = _counter(
    "slow_consumer_drops_total", "Messages that the NATS client dropped (core mode)"
)

Gauge("tracker_build_info", "Always 1", ["version"], registry=registry).labels(__version__).set(1)
