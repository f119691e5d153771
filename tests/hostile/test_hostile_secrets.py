"""Passwords and tokens, in addresses and in the environment, are neither said, logged nor stored."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from fuzzing import refusal
from made_up_results import cell, image_set, model, part, store_study
from small import ask, make_model

from bandlens.analysis.database.open import open_store
from bandlens.core.errors import ProbeError
from bandlens.core.records import Failed
from bandlens.export.model_files import load_model
from bandlens.export.weights.fetch import LOCK, fetch
from bandlens.export.weights.study_checkpoints import Checkpoint, Origin, Part

SECRET = "hunter22hunter22"


class Handler(BaseHTTPRequestHandler):
    """Gives weights at /a.pth to whoever has the password, and says who asked otherwise."""

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        is_checkpoint = self.path.startswith("/a.pth")
        content = io.BytesIO()
        torch.save({"a": torch.ones(3)}, content)
        page = f"<html><title>{self.headers.get('Authorization')} {self.path}</title></html>".encode()
        self.send_response(200 if is_checkpoint or self.path.startswith("/page") else 403)
        self.end_headers()
        self.wfile.write(content.getvalue() if is_checkpoint else page)

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def checkpoint_at(address: str) -> Checkpoint:
    return Checkpoint("tried", "own", (Part(Origin("url", address), "plain"),), "imagenet", "unstated", 70.0)


@pytest.mark.parametrize("path", ["none.pth", "page"])
def test_errors_of_a_download(server: str, path: str, tmp_path: Path) -> None:
    address = f"http://user:{SECRET}@{server}/{path}?access_token={SECRET}"
    message = str(refusal(lambda: fetch(checkpoint_at(address), tmp_path)))
    assert SECRET not in message
    assert "***" in message
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


def test_the_record_of_a_download(server: str, tmp_path: Path) -> None:
    fetch(checkpoint_at(f"http://user:{SECRET}@{server}/a.pth?access_token={SECRET}"), tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["tried.pth"]["source"] == f"url:http://***@{server}/a.pth?***"


HUB = """
import sys
from pathlib import Path
from bandlens.export.weights.fetch import fetch
from bandlens.export.weights.study_checkpoints import checkpoint
fetch(checkpoint("tv_resnet50"), Path(sys.argv[1]))
"""


def test_a_hub_that_answers_with_the_token_it_was_given(server: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": f"http://{server}", "HF_HOME": str(tmp_path), "HF_TOKEN": f"hf_{SECRET}"}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", HUB, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    line = ran.stderr.splitlines()[-1]
    assert line.startswith("bandlens.core.errors.CheckpointError: cannot fetch http:")
    assert SECRET not in line


def test_what_another_says_of_a_models_source(tmp_path: Path) -> None:
    make_model(tmp_path)
    about = json.loads((tmp_path / "one.json").read_text()) | {"source": f"https://me:{SECRET}@example.org/a.pth"}
    (tmp_path / "one.json").write_text(json.dumps(about))
    assert load_model(tmp_path, "one").source == "https://***@example.org/a.pth"


def test_a_cell_that_fails_with_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    images = image_set(4, labels=[0] * 4)
    failed_cell, error = cell(images, by=model("a")), str(ProbeError(f"probe mine failed: 401 with token {SECRET}"))
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "s", images, [part(failed_cell, [0] * 4, [0] * 4)])
        store.commit([Failed(failed_cell, error)], {})
    assert ask(tmp_path / "results.duckdb", "SELECT error FROM cell") == [("probe mine failed: 401 with token ***",)]
    assert SECRET.encode() not in (tmp_path / "results.duckdb").read_bytes()
