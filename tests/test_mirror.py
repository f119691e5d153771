"""Tests lie where the code lies: tests/engine/backends/test_openvino.py for engine/backends/openvino.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from imports_of_folders import PACKAGE

TESTS = PACKAGE / "tests"
WITHOUT_A_MODULE = {
    "analysis/database/test_label_schemes.py": "views of schema.sql",
    "analysis/database/test_views.py": "views of schema.sql",
    "app/report/test_browser.py": "page.html, page.js and page.css in a browser",
    "app/study/test_faults.py": "runs under seeded faults",
    "app/study/test_names.py": "the names that belong to a study's version",
    "app/study/test_paper.py": "the study file that ships",
    "app/study/test_ray_faults.py": "runs under seeded faults, on Ray",
    "app/study/test_soak.py": "many runs in one process",
    "app/study/test_executors.py": "one study in processes, on Ray and as an array of jobs",
    "engine/test_attack_foolbox.py": "probes/attacks.py and engine/backends/torch.py beside another library",
    "engine/test_run_on_card.py": "the order of what whole runs ask of a card",
    "engine/backends/test_onnxruntime_gpu.py": "engine/backends/onnxruntime.py on a pretended card",
    "engine/backends/test_torch_gpu.py": "engine/backends/torch.py on a pretended card",
    "probes/test_golden.py": "numbers of all built-in probes",
    "test_benchmarks.py": "the programs in benchmarks/",
    "test_docker.py": "Dockerfile, locks and compose.yaml",
    "test_docker_image.py": "the image that Dockerfile makes",
    "test_generated_pages.py": "docs/generate.py",
    "test_gpu_first.py": "benchmarks/gpu_first.py",
    "test_imports.py": "imports of the whole package",
    "test_architecture.py": "docs/architecture.md",
    "test_atlas_docs.py": "docs/guide/published.md and docs/findings.md",
    "test_mirror.py": "the folders of the tests",
    "test_pretend_cupy.py": "what stands for CuPy in the tests",
    "test_packaging.py": "pyproject.toml",
    "test_readme.py": "README.md",
    "test_sql_page.py": "docs/guide/sql.md",
    "test_traffic.py": "benchmarks/traffic.py",
    "test_tutorial.py": "docs/guide/tutorial.md",
}
"""Test file -> what it tests instead of one module. The files of tests/hostile/ go through the whole package."""


def files_of_tests() -> list[str]:
    files = [file.relative_to(TESTS).as_posix() for file in TESTS.rglob("test_*.py")]
    return sorted(file for file in files if not file.startswith("hostile/"))


@pytest.mark.parametrize("file", files_of_tests())
def test_a_test_file_has_its_module_or_is_listed(file: str) -> None:
    path = Path(file)
    module = PACKAGE / path.parent / path.name.removeprefix("test_")
    assert module.is_file() != (file in WITHOUT_A_MODULE), f"{file} has no module, or is listed and has one"


def test_what_is_listed_is_there() -> None:
    assert set(WITHOUT_A_MODULE) <= set(files_of_tests())
