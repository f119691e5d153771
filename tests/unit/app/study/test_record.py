"""A study is recorded as a version, and a new one says how it differs from the last."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from small import make_study, study_in

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study


def test_another_content_of_a_name_is_a_version_that_says_how_it_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = study_in(tmp_path, 8, "lowpass = {cutoff = 0.3}", models=("one",))
    run_study(resolve(Study.read(file)), tmp_path / "r.duckdb")
    file = make_study(tmp_path, probes="highpass = {cutoff = [0.3, 0.5]}")
    run_study(resolve(Study.read(file)), tmp_path / "r.duckdb")
    lines = [record.message for record in caplog.records if "is a new version" in record.message]
    assert lines == [
        "bandlens: study@2 is a new version of study@1: highpass cutoff=0.3, highpass cutoff=0.5 instead of lowpass "
        "cutoff=0.3"
    ]
    make_study(tmp_path, probes="highpass = {cutoff = [0.3, 0.5]}\nlowpass = {cutoff = [0.1, 0.2, 0.4, 0.5]}")
    run_study(resolve(Study.read(file)), tmp_path / "r.duckdb")
    (message,) = [text for text in caplog.messages if "study@3 is" in text]
    assert message.endswith("study@3 is a new version of study@2: also 4 conditions of lowpass")
