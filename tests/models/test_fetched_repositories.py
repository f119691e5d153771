"""Weights come from Hugging Face repositories."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bandlens.export.weights.fetch import verify
from bandlens.export.weights.registry import checkpoint


def weights_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.rand(200_000, generator=torch.Generator().manual_seed(0))}, buffer)
    return buffer.getvalue()


CONTENT = weights_bytes()


HUB = """
import sys
from pathlib import Path
from bandlens.export.weights.fetch import fetch
from bandlens.export.weights.registry import checkpoint
for name in sys.argv[2:]:
    print(*fetch(checkpoint(name), Path(sys.argv[1])))
"""


def test_hugging_face_repositories(server: Any, published: Any, tmp_path: Path) -> None:
    timm = "/timm/resnet50.tv_in1k/resolve/main/model.safetensors"
    robust = "/madrylab/robust-imagenet-models/resolve/main/resnet50_l2_eps3.ckpt"
    server.files |= {timm: published(CONTENT), robust: published(CONTENT[::-1])}
    names = ["tv_resnet50", "robust_resnet50_l2_eps3"]
    # The endpoint is read when huggingface_hub is imported, so a process of its own.
    environment = os.environ | {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "hub")}
    ran = subprocess.run(
        [sys.executable, "-c", HUB, str(tmp_path), *names], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "tv_resnet50.safetensors").read_bytes() == CONTENT
    assert (tmp_path / "robust_resnet50_l2_eps3.pth").read_bytes() == CONTENT[::-1]
    assert [verify(checkpoint(name), tmp_path)[0].status for name in names] == ["ok", "ok"]
    assert list((tmp_path / "partial").iterdir()) == []
