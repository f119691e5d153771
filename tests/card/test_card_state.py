"""The state of a card, by a pretended NVML that gcc makes: no real one has been asked."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from pretend_driver import build_nvml
from small import make_model

from bandlens.app.study.result_writer import ResultWriter
from bandlens.core.records import Failed, SessionInfo, Variant
from bandlens.engine import task_context
from bandlens.engine.backends.base import variant_of
from bandlens.engine.device.nvidia import CardState, _open_nvml, card_state, throttling


@pytest.fixture
def nvml(driver: Path, tmp_path: Path) -> Path:
    """The pretended NVML; each test has its own, which has not been started."""
    return build_nvml(tmp_path)


@pytest.fixture(autouse=True)
def loaded_nvml(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process loads and starts NVML once: each test has the pretended one, as the loader would have found it."""
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(nvml)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    _open_nvml.cache_clear()


def test_the_state_has_its_units(driver: Path) -> None:
    state = card_state(str(driver))
    assert state == CardState(1410, 1980, 2619, 698.5, 71, (), mig=False)
    assert throttling(json.dumps(asdict(state))) is None
    assert card_state(str(driver)) == state, "the library is started once"


def test_the_libraries_are_found_by_their_names(driver: Path, nvml: Path) -> None:
    program = "from bandlens.engine.device.nvidia import card_state; print(card_state().watts)"
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{driver.parent}:{nvml.parent}"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "698.5\n"


def test_what_slows_a_card_down_is_told_without_idling_and_without_the_power_cap_of_a_full_load(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    for reasons, throttled in (
        (0x1 | 0x2 | 0x4 | 0x40, ("software power cap", "hardware thermal slowdown")),
        (0x4, ("software power cap",)),
    ):
        monkeypatch.setenv("FAKE_REASONS", str(reasons))
        state = card_state(str(driver))
        assert state is not None
        assert state.throttled == throttled
        lines.append(throttling(json.dumps(asdict(state))))
    assert str(lines[0]).startswith("the GPU is slowed down by hardware thermal slowdown, so rates of this run")
    assert lines[1] is None


def test_mig_is_told_apart_from_cards_without_it(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, mig in (("1", True), ("-1", None)):
        monkeypatch.setenv("FAKE_MIG", mode)
        state = card_state(str(driver))
        assert state is not None
        assert state.mig is mig


def test_a_function_that_the_driver_lacks_leaves_out_one_value(
    driver: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    lacking = build_nvml(tmp_path / "old", without="nvmlDeviceGetMigMode")
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(lacking)))
    assert card_state(str(driver)) == CardState(1410, 1980, 2619, 698.5, 71, (), mig=None)


def test_there_is_no_state_without_library_or_card(
    driver: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert card_state(str(tmp_path / "missing.so")) is None
    monkeypatch.setenv("FAKE_NVML", "9")
    assert card_state(str(driver)) is None
    _open_nvml.cache_clear()
    monkeypatch.delenv("FAKE_NVML")
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(driver)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    assert card_state(str(driver)) is None, "a library without these functions"
    assert throttling(None) is None


def test_there_is_no_state_without_the_bindings(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert card_state(str(driver)) is None


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
    with ResultWriter([], store, lambda: "study@1", {}) as writer:
        for _ in range(3):
            writer.commit([failure], partial(task_context.with_card_state, infos))
    assert threads == ["commit_0"] * 3
    assert committed == [json.dumps(asdict(state()))] * 3
    assert len(writer.throttled) == 1
