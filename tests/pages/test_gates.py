"""The gate of docs/guide/decide.md in a test, and the workflow of GitHub that comes along, without GitHub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
import yaml
from pages import FENCE, ROOT, environment_in
from small import make_images, make_model, make_pictures, make_study

WORKFLOW = ROOT / "docs" / "workflows" / "bandlens-gate.yml"
GUIDE = (ROOT / "docs" / "guide" / "decide.md").read_text(encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with study.toml of a model and 40 images, which it has right."""
    model = make_model(tmp_path / "models", "mine")
    pictures = make_pictures(40)
    batch = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    logits = onnxruntime.InferenceSession(model.path.read_bytes()).run(None, {"images": batch})[0]
    make_images(tmp_path / "photos.set", pictures, labels=logits.argmax(1).tolist())
    make_study(tmp_path, images=["photos.set"], probes="lowpass = {cutoff = [0.1, 0.5]}")
    (tmp_path / "mine.onnx").write_bytes(model.path.read_bytes())
    return tmp_path


def steps_of(job: dict[str, Any], event: str) -> list[str]:
    """The scripts that a job runs at an event and that call bandlens."""
    steps = (step for step in job["steps"] if f"'{event}'" in step.get("if", f"'{event}'"))
    return [step["run"] for step in steps if step.get("run", "").find("bandlens ") >= 0]


def run_step(script: str, folder: Path) -> int:
    environment = environment_in(folder) | {"GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, check=False).returncode


def test_the_workflow_judges_a_pull_request_by_main(repository: Path) -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    [on_main], [on_request] = (steps_of(workflow["jobs"]["gate"], event) for event in ("push", "pull_request"))
    assert run_step(on_main, repository) == 0
    assert run_step(on_request, repository) == 0
    assert (repository / "gate.md").read_text().startswith("## PASS: ")
    make_model(repository / "models", "mine", seed=3)
    assert run_step(on_request, repository) == 1
    assert (repository / "gate.md").read_text().startswith("## FAIL: ")
    assert ElementTree.parse(repository / "gate.xml").getroot().tag == "testsuites"
    (repository / "main.duckdb").unlink()
    assert run_step(on_request, repository) == 2
    assert "no results database at main.duckdb" in (repository / "gate.md").read_text()
    assert (repository / "summary.md").read_text().count("## ") > 3


def test_code_of_a_pull_request_has_no_token_that_can_write() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert [*workflow[True]] == ["push", "pull_request"], "YAML reads `on` as true"
    gate, comment = (workflow["jobs"][name] for name in ("gate", "comment"))
    assert (workflow["permissions"], gate["permissions"]) == ({}, {"contents": "read"})
    assert comment["permissions"] == {"pull-requests": "write"}
    assert not [step for step in comment["steps"] if "checkout" in step.get("uses", "") or "bandlens" in str(step)]
    assert "secrets." not in str(workflow)


def test_the_example_of_the_guide_passes_and_fails_in_pytest(repository: Path) -> None:
    [(name, body)] = [(name, body) for language, name, body in FENCE.findall(GUIDE) if language == "python"]
    (repository / name).write_text(body, encoding="utf-8")
    assert run_step("bandlens run study.toml --db main.duckdb", repository) == 0
    pytest_command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
    assert subprocess.run(pytest_command, cwd=repository, env=os.environ, check=False).returncode == 0
    other = make_model(repository / "others", "mine", seed=3)
    (repository / "mine.onnx").write_bytes(other.path.read_bytes())
    ended = subprocess.run(pytest_command, cwd=repository, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "AssertionError: mine against study@1 of main.duckdb: " in ended.stdout
