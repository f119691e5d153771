"""Weights come from Hugging Face repositories."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bandlens.export.weights.fetch import verify
from bandlens.export.weights.study_checkpoints import checkpoint

CONTENT = b"weights" * 1000


HUB = """
import sys
from pathlib import Path
from bandlens.export.weights.fetch import fetch
from bandlens.export.weights.study_checkpoints import checkpoint
for name in sys.argv[2:]:
    print(*fetch(checkpoint(name), Path(sys.argv[1])))
"""


TIMM = "/timm/resnet50.tv_in1k/resolve/main/model.safetensors"


def fetched(hub: str, folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Fetch in a process of its own: huggingface_hub reads the endpoint as it is imported."""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "hub")}
    command = [sys.executable, "-c", HUB, str(folder), *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_hugging_face_repositories(server: Any, published: Any, tmp_path: Path) -> None:
    robust = "/madrylab/robust-imagenet-models/resolve/main/resnet50_l2_eps3.ckpt"
    digest = hashlib.sha256(CONTENT).hexdigest()
    server.files |= {TIMM: published(CONTENT, linked=digest), robust: published(CONTENT[::-1])}
    names = ["tv_resnet50", "robust_resnet50_l2_eps3"]
    ran = fetched(server.address, tmp_path, *names)
    assert ran.returncode == 0, ran.stderr
    (warning,) = (line for line in ran.stderr.splitlines() if line.startswith("bandlens: warning: "))
    assert "resnet50_l2_eps3.pth" in warning, "the hub states no sha256 of it"
    assert (tmp_path / "tv_resnet50.safetensors").read_bytes() == CONTENT
    assert (tmp_path / "robust_resnet50_l2_eps3.pth").read_bytes() == CONTENT[::-1]
    assert [verify(checkpoint(name), tmp_path)[0].status for name in names] == ["ok", "ok"]
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_file_that_is_not_what_the_hub_states_is_refused(server: Any, published: Any, tmp_path: Path) -> None:
    digest, actual = (hashlib.sha256(content).hexdigest() for content in (CONTENT, CONTENT[::-1]))
    server.files[TIMM] = published(CONTENT[::-1], linked=digest)
    ran = fetched(server.address, tmp_path, "tv_resnet50")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith(
        f"CheckpointError: timm/resnet50.tv_in1k has sha256 {actual[:8]}… but the hub states "
        f"{digest[:8]}…; it was thrown away, fetch it again"
    )
    assert not (tmp_path / "tv_resnet50.safetensors").exists()
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_hub_that_redirects_to_plain_http_is_left(server: Any, published: Any, tmp_path: Path) -> None:
    server.files[TIMM] = published(CONTENT, location="http://192.0.2.1/a.safetensors")
    ran = fetched(server.address, tmp_path, "tv_resnet50")
    assert ran.returncode == 1
    assert "http://192.0.2.1/a.safetensors is plain http" in ran.stderr
    assert ("GET", TIMM, None) not in server.requests


def test_a_hub_of_plain_http_is_not_asked(tmp_path: Path) -> None:
    ran = fetched("http://192.0.2.1", tmp_path, "tv_resnet50")
    assert ran.returncode == 1
    assert "http://192.0.2.1/timm/resnet50.tv_in1k/resolve/main/model.safetensors is plain http" in ran.stderr
