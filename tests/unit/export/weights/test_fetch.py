from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import torch

from bandlens.core.errors import CheckpointError
from bandlens.export.weights import fetch as downloads
from bandlens.export.weights.fetch import LOCK, drive_answer, fetch, local_files, verify
from bandlens.export.weights.read import read
from bandlens.export.weights.study_checkpoints import Checkpoint, Origin, Part, checkpoint

PAGE = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Too many users</body></html>"
)


def weights_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.rand(200_000, generator=torch.Generator().manual_seed(0))}, buffer)
    return buffer.getvalue()


CONTENT = weights_bytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def published_at(source: Origin, *mirrors: Origin) -> Checkpoint:
    parts = tuple(Part(origin, "plain") for origin in (source, *mirrors))
    return Checkpoint("tried", "own", parts, "imagenet", "unstated", 70.0)


def url(server: Any, path: str) -> Origin:
    return Origin("url", server.address + path)


def ranges(server: Any) -> list[str | None]:
    return [span for _, _, span in server.requests]


def test_a_download_is_kept_recorded_and_not_repeated(server: Any, published: Any, tmp_path: Path) -> None:
    server.files["/a.pth"] = published(CONTENT)
    entry = published_at(url(server, "/a.pth"))
    (path,) = fetch(entry, tmp_path)
    assert path == tmp_path / "tried.pth"
    assert torch.equal(read(path)["a"], torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    locked = json.loads((tmp_path / LOCK).read_text())
    assert locked == {"tried.pth": {"sha256": DIGEST, "bytes": len(CONTENT), "source": f"url:{server.address}/a.pth"}}
    assert fetch(entry, tmp_path) == [path]
    assert len(server.requests) == 1
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_cut_connection_is_resumed(server: Any, published: Any, tmp_path: Path) -> None:
    server.files["/a.pth"] = published(CONTENT, cut_after=300_000)
    entry = published_at(url(server, "/a.pth"))
    with pytest.raises(
        CheckpointError, match=r"cannot fetch http.*what arrived is kept, try again, or download it .* put it at /"
    ):
        fetch(entry, tmp_path)
    length = (tmp_path / "partial" / "tried.pth").stat().st_size
    assert 200_000 < length <= 300_000
    assert not (tmp_path / "tried.pth").exists()

    server.files["/a.pth"].cut_after = None
    (path,) = fetch(entry, tmp_path)
    assert path.read_bytes() == CONTENT
    assert ranges(server) == [None, f"bytes={length}-"]


@pytest.mark.parametrize("change", [{"version": '"two"'}, {"ranges": False}])
def test_a_changed_file_is_not_glued_to_the_old_beginning(
    change: dict[str, Any], server: Any, published: Any, tmp_path: Path
) -> None:
    server.files["/a.pth"] = published(CONTENT[::-1], cut_after=300_000)
    entry = published_at(url(server, "/a.pth"))
    with pytest.raises(CheckpointError):
        fetch(entry, tmp_path)
    server.files["/a.pth"] = published(CONTENT, **change)
    (path,) = fetch(entry, tmp_path)
    assert path.read_bytes() == CONTENT


def test_the_digits_in_a_file_name_are_checked(server: Any, published: Any, tmp_path: Path) -> None:
    true_name, false_name = f"/resnet50-{DIGEST[:8]}.pth.tar", "/resnet50-0123abcd.pth.tar"
    server.files |= {true_name: published(CONTENT), false_name: published(CONTENT)}
    with pytest.raises(CheckpointError, match=f"sha256 {DIGEST[:8]}… but its name says 0123abcd"):
        fetch(published_at(url(server, false_name)), tmp_path)
    assert not (tmp_path / "tried.pth").exists()
    assert not (tmp_path / "partial" / "tried.pth").exists()
    assert not (tmp_path / LOCK).exists()
    fetch(published_at(url(server, true_name)), tmp_path)


def test_a_file_whose_sha256_nobody_states_is_named_once_and_recorded(
    server: Any, published: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"/resnet50-{DIGEST[:8]}.pth"
    server.files |= {"/a.pth": published(CONTENT), address: published(CONTENT)}
    entry = published_at(url(server, "/a.pth"), url(server, address))
    assert [path.name for path in fetch(entry, tmp_path)] == ["tried.pth", "tried.head.pth"]
    (line,) = caplog.messages
    assert line.startswith(f"bandlens: warning: tried.pth from {entry.parts[0].source} is trusted as it is")
    assert line.endswith(f"from now on {tmp_path / LOCK} asks for {DIGEST}")
    fetch(entry, tmp_path)
    assert caplog.messages == [line]


def test_a_file_put_there_by_hand_is_named_and_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody asked a server for its sha256, also where there is a hub that states it."""
    entry = checkpoint("tv_resnet50")
    ((_, path),) = local_files(entry, tmp_path)
    path.write_bytes(CONTENT)
    assert fetch(entry, tmp_path) == [path]
    assert [row.status for row in verify(entry, tmp_path)] == ["ok"]
    assert [line.split(" is ")[0] for line in caplog.messages] == [
        "bandlens: warning: tv_resnet50.safetensors from timm:timm/resnet50.tv_in1k"
    ]


def test_a_later_download_that_differs_is_refused(server: Any, published: Any, tmp_path: Path) -> None:
    server.files["/a.pth"] = published(CONTENT)
    entry = published_at(url(server, "/a.pth"))
    (path,) = fetch(entry, tmp_path)
    path.unlink()
    server.files["/a.pth"] = published(CONTENT[::-1])
    with pytest.raises(CheckpointError, match=f"but {DIGEST[:8]}… when first fetched"):
        fetch(entry, tmp_path)
    assert not path.exists()


def test_a_stored_file_that_changed_is_found(server: Any, published: Any, tmp_path: Path) -> None:
    server.files["/a.pth"] = published(CONTENT)
    entry = published_at(url(server, "/a.pth"))
    assert [row.status for row in verify(entry, tmp_path)] == ["not fetched"]
    (path,) = fetch(entry, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert [row.status for row in verify(entry, tmp_path)] == ["changed"]
    with pytest.raises(CheckpointError, match="when first fetched"):
        fetch(entry, tmp_path)
    assert path.exists()
    (tmp_path / LOCK).unlink()
    assert [row.status for row in verify(entry, tmp_path)] == ["not recorded"]
    (tmp_path / LOCK).write_text("{")
    for act in (verify, fetch):
        with pytest.raises(CheckpointError, match="is damaged"):
            act(entry, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write to .*BANDLENS_HOME"):
        fetch(checkpoint("resnet50_dino"), tmp_path / "file" / "weights")


def test_a_web_page_is_not_weights(server: Any, published: Any, tmp_path: Path) -> None:
    server.files["/a.pth"] = published(PAGE.replace(b"Quota exceeded", b"Sign in"), kind="text/html")
    with pytest.raises(CheckpointError, match=r"answered with a web page \('Google Drive - Sign in'\)"):
        fetch(published_at(url(server, "/a.pth")), tmp_path)
    assert not (tmp_path / "partial" / "tried.pth").exists()


ELSEWHERE = "http://192.0.2.1/a.pth"
"""An address for documents, where no machine is: to ask it takes a minute."""


def test_plain_http_is_asked_of_this_machine_alone(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"http://192\.0\.2\.1/a\.pth is plain http"):
        fetch(published_at(Origin("url", ELSEWHERE)), tmp_path)


def test_a_redirect_to_plain_http_is_refused(server: Any, published: Any, tmp_path: Path) -> None:
    server.files |= {"/a.pth": published(b"", location="/b.pth"), "/b.pth": published(b"", location=ELSEWHERE)}
    with pytest.raises(CheckpointError, match=r"http://192\.0\.2\.1/a\.pth is plain http"):
        fetch(published_at(url(server, "/a.pth")), tmp_path)
    assert [path for _, path, _ in server.requests] == ["/a.pth", "/b.pth"]
    assert not (tmp_path / "tried.pth").exists()


@pytest.mark.parametrize("address", [ELSEWHERE, "//EXAMPLE.org/a.pth", "https:/a.pth"])
def test_a_redirect_from_https_leads_to_https_alone(address: str) -> None:
    url = "https://example.org/a.pth"
    if address.startswith("http:"):
        with pytest.raises(CheckpointError, match="is plain http"):
            downloads.check_redirect(url, urljoin(url, address))
    else:
        downloads.check_redirect(url, urljoin(url, address))


@pytest.fixture
def drive(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Google Drive's address, pointed at the local server; gdown itself is real."""
    monkeypatch.setattr(downloads, "DRIVE", f"{server.address}/uc?id=")
    return server


def test_google_drive_is_resumed(drive: Any, published: Any, tmp_path: Path) -> None:
    drive.files["/uc?id=abc"] = published(CONTENT, cut_after=600_000)
    entry = published_at(Origin("gdrive", "abc"))
    with pytest.raises(CheckpointError, match=r"cannot fetch http.*=abc: .* what arrived is kept"):
        fetch(entry, tmp_path)
    drive.files["/uc?id=abc"].cut_after = None
    (path,) = fetch(entry, tmp_path)
    assert path.read_bytes() == CONTENT
    assert any(ranges(drive))
    assert list((tmp_path / "partial").iterdir()) == []


def test_google_drives_quota_page_is_recognised(drive: Any, published: Any, tmp_path: Path) -> None:
    drive.files["/uc?id=abc"] = published(PAGE, kind="text/html; charset=utf-8")
    with pytest.raises(CheckpointError) as error:
        fetch(published_at(Origin("gdrive", "abc")), tmp_path)
    assert "quota of downloads is exceeded" in str(error.value)
    assert str(tmp_path / "tried.pth") in str(error.value)


def test_what_gdown_makes_of_drives_pages_is_one_line() -> None:
    assert "quota" in drive_answer("abc", "Failed to retrieve file url:\n\n\tToo many users have viewed this file")
    private = drive_answer("abc", "Failed to retrieve file url:\n\n\tYou need access\n")
    assert private.startswith("Google Drive does not give file abc: Failed to retrieve file url: You need access; try")
    assert "\n" not in private
