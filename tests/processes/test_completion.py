"""A shell completes the names that a command takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_results import cell, image_set, part, store_study

from bandlens.analysis.database.open import open_store


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("export resnet50_di", "resnet50_dino"),
        ("checkpoints show tv_re", "tv_resnet50"),
        ("checkpoints list category:contr", "category:contrastive"),
        ("run study.toml --engine onnxruntime-c", "onnxruntime-cuda"),
        ("benchmarks pack imagenet-s", "imagenet-sketch"),
        ("report --study mi", "mine@1"),
        ("compare mine mi", "mine"),
        ("studies delete mi", "mine@1"),
    ],
)
def test_a_shell_completes_names(typed: str, offered: str, tmp_path: Path) -> None:
    with open_store(tmp_path / "results.duckdb") as store:
        images = image_set(1)
        store_study(store, "mine", images, [part(cell(images), [0])])
    variables = {"_BANDLENS_COMPLETE": "complete_bash", "COMP_WORDS": f"bandlens {typed}"}
    variables["COMP_CWORD"] = str(len(typed.split()))
    ran = subprocess.run(
        [Path(sys.executable).with_name("bandlens")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | variables,
    )
    assert offered in ran.stdout.splitlines()
    assert all(line.startswith(typed.split()[-1]) for line in ran.stdout.splitlines())
