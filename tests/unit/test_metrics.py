"""The cheap collectors show in a scrape what prometheus_client's own would show of the same events."""

from __future__ import annotations

import math
import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from tracker_daemon import metrics
from tracker_daemon.metrics import Distribution, Tally

NAME, TEXT = "tracker_scratch", "Of a test"
BOUNDS = (0.125, 0.5, 1, 2.5, 3600)


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """Return the registry in which the collectors of a test register."""
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "registry", registry)
    monkeypatch.setattr(metrics, "known_subjects", {"llm.decisions", "llm.outcomes"})
    return registry


def scraped(registry: CollectorRegistry) -> list[str]:
    """The lines of a scrape, without the times at which prometheus_client's own series began."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if f"{NAME}_created" not in line]


def test_a_tally_is_a_counter_by_subject(scratch: CollectorRegistry) -> None:
    tally, reference = Tally(NAME, TEXT), CollectorRegistry()
    counter = Counter(NAME, TEXT, ["subject"], registry=reference)
    assert scraped(scratch) == scraped(reference)
    for subject in ("llm.decisions", "llm.outcomes"):
        tally.declare(subject)
        counter.labels(subject)
    assert scraped(scratch) == scraped(reference)
    for subject, times in (("llm.outcomes", 2), ("llm.decisions", 3)):
        for _ in range(times):
            tally.add(subject)
        counter.labels(subject).inc(times)
        assert scraped(scratch) == scraped(reference)


def test_subjects_that_nobody_has_set_are_one_series_of_a_tally(scratch: CollectorRegistry) -> None:
    """Also one whose name is the label's, and a text that would break a line of the exposition."""
    tally, reference = Tally(NAME, TEXT), CollectorRegistry()
    counter = Counter(NAME, TEXT, ["subject"], registry=reference)
    subjects = ["foreign.1", "llm.decisions", 'foreign."2"\n', "other", "llm.decisions.sub", ""]
    for subject in subjects:
        tally.add(subject)
    counter.labels("other").inc(5)
    counter.labels("llm.decisions").inc()
    assert scraped(scratch) == scraped(reference)


def test_a_series_declared_again_goes_on(scratch: CollectorRegistry) -> None:
    tally = Tally(NAME, TEXT)
    tally.add("llm.decisions")
    tally.declare("llm.decisions")
    assert scratch.get_sample_value(f"{NAME}_total", {"subject": "llm.decisions"}) == 1


# Sums of eighths and of whole numbers are exact in whatever order they are added up.
VALUES: dict[str, list[float]] = {
    "nothing": [],
    "on each bound": [*BOUNDS],
    "below the first": [0.0, 0.0625, -1.0],
    "above the last": [3601.0, 1e9],
    "infinite": [math.inf],
    "whole numbers": [1, 2, 3, 0],
    "one bucket, many times": [0.25] * 1000,
    "by chance": [random.Random(7).randrange(40) / 8 for _ in range(1000)],  # noqa: S311 - not secret
}


@pytest.mark.parametrize("which", VALUES)
def test_a_distribution_is_a_histogram(scratch: CollectorRegistry, which: str) -> None:
    distribution, reference = Distribution(NAME, TEXT, *BOUNDS), CollectorRegistry()
    histogram = Histogram(NAME, TEXT, buckets=BOUNDS, registry=reference)
    values = VALUES[which]
    distribution.observe(values)
    for value in values:
        histogram.observe(value)
    assert scraped(scratch) == scraped(reference)


def test_a_value_right_beside_a_bound_is_in_the_histograms_bucket(scratch: CollectorRegistry) -> None:
    distribution, reference = Distribution(NAME, TEXT, *BOUNDS), CollectorRegistry()
    histogram = Histogram(NAME, TEXT, buckets=BOUNDS, registry=reference)
    for bound in BOUNDS:
        for value in (math.nextafter(bound, 0), math.nextafter(bound, math.inf)):
            distribution.observe([value])
            histogram.observe(value)
            assert scraped(scratch) == scraped(reference)


def test_a_distribution_adds_up_over_observations_and_scrapes(scratch: CollectorRegistry) -> None:
    distribution, reference = Distribution(NAME, TEXT, *BOUNDS), CollectorRegistry()
    histogram = Histogram(NAME, TEXT, buckets=BOUNDS, registry=reference)
    for values in ([0.25, 4000.0], [], [0.25], [0.5, 1.0, 7200.0]):
        distribution.observe(values)
        for value in values:
            histogram.observe(value)
        assert scraped(scratch) == scraped(reference)
        assert scraped(scratch) == scraped(reference)


def test_what_is_registered_for_the_daemon_has_the_samples_that_dashboards_and_alerts_ask_for() -> None:
    lines = generate_latest(metrics.registry).decode().splitlines()
    assert "# TYPE tracker_messages_received_total counter" in lines
    for name, least in (
        ("publish_to_commit", "0.005"),
        ("event_loop_turn", "0.001"),
        ("event_loop_turn_cpu", "0.001"),
    ):
        assert f"# TYPE tracker_{name}_seconds histogram" in lines
        for sample in (f'bucket{{le="{least}"}}', 'bucket{le="+Inf"}', "count", "sum"):
            assert any(line.startswith(f"tracker_{name}_seconds_{sample} ") for line in lines)


def test_subjects_that_nobody_has_set_take_no_memory() -> None:
    """A foreign consumer may deliver any number of subjects."""
    for number in range(100):
        metrics.messages_received.add(f"orders.{number}")
    assert len(metrics.messages_received._counts) <= len(metrics.known_subjects) + 1
