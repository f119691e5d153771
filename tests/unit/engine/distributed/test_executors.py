"""A worker without signs of life or of progress has to be replaced, and a run that hears nothing says so."""

from __future__ import annotations

import threading

import pytest

from bandlens.engine.distributed import executors
from bandlens.engine.distributed.executors import LEAST, SILENCE, SLOWEST, START, UNKNOWN, Watch, reported


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_worker_that_gives_signs_of_life_and_gets_on_is_left_alone(clock: Clock) -> None:
    watch = Watch(None, clock)
    watch.starts("a")
    for step in range(1000):
        clock.now += SILENCE - 1
        watch.hears("a", step)
        assert watch.fault("a") is None


def test_one_that_was_heard_of_may_not_be_silent(clock: Clock) -> None:
    watch = Watch(None, clock)
    watch.starts("a")
    watch.hears("a", 0)
    clock.now += SILENCE
    assert watch.fault("a") is None
    clock.now += 1
    assert watch.fault("a") == "has given no sign of life for 120 s"
    watch.starts("a")
    assert watch.fault("a") is None, "another process is another worker"


def test_one_that_was_never_heard_of_has_longer(clock: Clock) -> None:
    watch = Watch(None, clock)
    watch.starts("a")
    clock.now += START
    assert watch.fault("a") is None
    clock.now += 1
    assert watch.fault("a") == "has not started within 300 s"


@pytest.mark.parametrize(
    ("timeout", "slowest", "limit"),
    [(None, None, UNKNOWN), (None, 1.0, LEAST), (None, 100.0, SLOWEST * 100.0), (7.0, None, 7.0), (7.0, 100.0, 7.0)],
)
def test_signs_of_life_alone_are_no_progress(
    clock: Clock, timeout: float | None, slowest: float | None, limit: float
) -> None:
    watch = Watch(timeout, clock)
    watch.starts("a")
    if slowest:
        clock.now += slowest
        watch.ends(clock.now - slowest)
    watch.begins("a")
    begun = clock.now
    while clock.now < begun + limit:
        watch.hears("a", 0)
        assert watch.fault("a") is None
        clock.now += 1
    clock.now += 1
    watch.hears("a", 0)
    assert watch.fault("a") == f"has made no progress for {limit:.0f} s (--task-timeout allows more)"
    watch.hears("a", 1)
    assert watch.fault("a") is None


def test_time_between_tasks_does_not_count(clock: Clock) -> None:
    watch = Watch(50.0, clock)
    watch.starts("a")
    clock.now += 100
    watch.begins("a")
    watch.hears("a", 0)
    assert watch.fault("a") is None


def test_time_before_the_first_sign_does_not_count(clock: Clock) -> None:
    watch = Watch(8.0, clock)
    watch.starts("a")
    clock.now += START - 1
    watch.hears("a", 0)
    assert watch.fault("a") is None
    clock.now += 8
    watch.hears("a", 0)
    assert watch.fault("a") is None
    clock.now += 1
    watch.hears("a", 0)
    assert watch.fault("a") == "has made no progress for 8 s (--task-timeout allows more)"


def test_one_that_was_idle_for_long_may_begin(clock: Clock) -> None:
    """A process without a task gives no signs."""
    watch = Watch(None, clock)
    watch.starts("a")
    watch.hears("a", 0)
    clock.now += 10 * SILENCE
    watch.begins("a")
    assert watch.fault("a") is None


def test_a_run_that_hears_nothing_says_what_it_waits_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "TELL_SECONDS", 0.01)
    watch, lines, came = Watch(None, clock), list[str](), threading.Event()

    def tell(text: str) -> None:
        lines.append(text)
        came.set()

    clock.now += 75
    with reported(watch, lambda: "a worker", tell):
        assert came.wait(30)
    assert lines[0] == "no progress for 75 s; waiting for a worker"
