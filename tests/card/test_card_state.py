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
from pretend_driver import build_driver, build_nvml
from small import make_model

from bandlens.app.study.record import RunRecord
from bandlens.core.records import SessionInfo, Variant
from bandlens.engine import workbench
from bandlens.engine.backends.base import variant_of
from bandlens.engine.device.card_state import CardState, _open_nvml, card_state, throttling


@pytest.fixture(autouse=True)
def fresh() -> None:
    """A process starts NVML once."""
    _open_nvml.cache_clear()


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of a CUDA driver and of its NVML."""
    folder = tmp_path_factory.mktemp("driver")
    return str(build_driver(folder)), str(build_nvml(folder))


def test_the_state_has_its_units(libraries: tuple[str, str]) -> None:
    state = card_state(*libraries)
    assert state == CardState(1410, 1980, 2619, 698.5, 71, (), mig=False)
    assert throttling(json.dumps(asdict(state))) is None
    assert card_state(*libraries) == state, "the library is started once"


@pytest.mark.parametrize(
    ("reasons", "throttled", "warning"),
    [
        (0x1 | 0x2 | 0x4 | 0x40, ("software power cap", "hardware thermal slowdown"), "hardware thermal slowdown"),
        (0x4, ("software power cap",), None),
    ],
    ids=["idling is no reason", "the power cap of a card at full load is no warning"],
)
def test_what_slows_a_card_down_is_told(
    libraries: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    reasons: int,
    throttled: tuple[str, ...],
    warning: str | None,
) -> None:
    monkeypatch.setenv("FAKE_REASONS", str(reasons))
    state = card_state(*libraries)
    assert state is not None
    assert state.throttled == throttled
    line = throttling(json.dumps(asdict(state))) or ""
    assert line.startswith(f"the GPU is slowed down by {warning}, so rates of this run" if warning else "")
    assert bool(line) == bool(warning)


@pytest.mark.parametrize(("mode", "mig"), [("1", True), ("0", False), ("-1", None)])
def test_mig_is_told_apart_from_cards_without_it(
    mode: str, mig: bool | None, libraries: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
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

    monkeypatch.setattr(workbench, "card_state", state)
    store: Any = SimpleNamespace(commit=store_parts)
    infos = {variant_of(make_model(tmp_path), "tensorrt", "fp32"): SessionInfo("a card", 8, 0, "{}")}
    with RunRecord([], store, lambda: "study@1", {}) as record:
        for _ in range(3):
            record.commit([], partial(workbench.with_card_state, infos))
    assert threads == ["commit_0"] * 3
    assert committed == [json.dumps(asdict(state()))] * 3
    assert len(record.throttled) == 1
