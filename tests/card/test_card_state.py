"""The state of a card, by a pretended NVML that gcc makes: no real one has been asked."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretend_driver import build_nvml
from small import make_model

from bandlens.app.study.record import RunRecord
from bandlens.core.records import Failed, SessionInfo, Variant
from bandlens.engine import task_context
from bandlens.engine.backends.base import variant_of
from bandlens.engine.device.nvidia import CardState, _open_nvml, card_state, throttling


@pytest.fixture(autouse=True)
def fresh() -> None:
    """A process starts NVML once."""
    _open_nvml.cache_clear()


@pytest.fixture(scope="module")
def libraries(driver: Path) -> tuple[str, str]:
    """Paths of a CUDA driver and of its NVML."""
    return str(driver), str(build_nvml(driver.parent))


def test_the_state_has_its_units(libraries: tuple[str, str]) -> None:
    state = card_state(*libraries)
    assert state == CardState(1410, 1980, 2619, 698.5, 71, (), mig=False)
    assert throttling(json.dumps(asdict(state))) is None
    assert card_state(*libraries) == state, "the library is started once"


def test_what_slows_a_card_down_is_told_without_idling_and_without_the_power_cap_of_a_full_load(
    libraries: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    for reasons, throttled in (
        (0x1 | 0x2 | 0x4 | 0x40, ("software power cap", "hardware thermal slowdown")),
        (0x4, ("software power cap",)),
    ):
        monkeypatch.setenv("FAKE_REASONS", str(reasons))
        state = card_state(*libraries)
        assert state is not None
        assert state.throttled == throttled
        lines.append(throttling(json.dumps(asdict(state))))
    assert str(lines[0]).startswith("the GPU is slowed down by hardware thermal slowdown, so rates of this run")
    assert lines[1] is None


def test_mig_is_told_apart_from_cards_without_it(libraries: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, mig in (("1", True), ("-1", None)):
        monkeypatch.setenv("FAKE_MIG", mode)
        state = card_state(*libraries)
        assert state is not None
        assert state.mig is mig


def test_there_is_no_state_without_library_or_card(
    libraries: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert card_state(libraries[0], str(tmp_path / "missing.so")) is None
    assert card_state(libraries[0], libraries[0]) is None, "a library without these functions"
    monkeypatch.setenv("FAKE_NVML", "9")
    assert card_state(*libraries) is None
    assert throttling(None) is None


def test_the_card_is_asked_in_the_thread_that_commits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The thread that feeds the card does not wait for NVML."""
    threads, committed = list[str](), list[str | None]()

    def state() -> CardState:
        threads.append(threading.current_thread().name)
        return CardState(1410, 1980, 2619, 698.5, 71, ("hardware slowdown",), mig=False)

    def store_parts(_: object, infos: dict[Variant, SessionInfo]) -> None:
        committed.extend(info.card for info in infos.values())

    monkeypatch.setattr(task_context, "card_state", state)
    store: Any = SimpleNamespace(commit=store_parts)
    infos = {variant_of(make_model(tmp_path), "tensorrt", "fp32"): SessionInfo("a card", 8, 0, "{}")}
    failure: Any = Failed(None, "it raised")
    with RunRecord([], store, lambda: "study@1", {}) as record:
        for _ in range(3):
            record.commit([failure], partial(task_context.with_card_state, infos))
    assert threads == ["commit_0"] * 3
    assert committed == [json.dumps(asdict(state()))] * 3
    assert len(record.throttled) == 1
