"""A family's numbers must not change while its version, and so its digests, stay."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("golden.py")


def test_outcomes_and_digests_are_those_of_the_present_versions() -> None:
    outcomes = runpy.run_path(str(GOLDEN))["outcomes"]()
    golden = json.loads(GOLDEN.with_suffix(".json").read_text(encoding="utf-8"))
    assert outcomes.keys() == golden.keys()
    for name, outcome in outcomes.items():
        assert outcome["digest"] == golden[name]["digest"], f"{name}: results outcomes before would no longer be found"
        hint = f"{name}: the numbers changed; raise the family's version and run tests/unit/probes/golden.py"
        assert outcome["mean"] == pytest.approx(golden[name]["mean"], abs=3e-6), hint
        assert outcome["pixels"] == pytest.approx(golden[name]["pixels"], abs=3e-5), hint
