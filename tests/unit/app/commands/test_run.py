"""Options of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandlens.app.commands.run import _sharded


@pytest.mark.parametrize("words", ["cpu,cpu", "cpu, cpu", " cpu ,cpu"])
def test_devices_may_have_blanks_between_them(words: str) -> None:
    ray = dict.fromkeys(("--address", "--gpus-per-worker", "--workers"))
    sharded = _sharded(Path("results.duckdb"), "local", words, ray, None, None, "now")
    assert sharded is not None
    assert sharded.devices == ("cpu", "cpu")
