"""One download per kind of source. Each goes on where an earlier one stopped, and shows a bar on a terminal.

What the network or the server does wrong is raised as requests, huggingface_hub and gdown raise it; `fetch` gives it a
line. CheckpointError where more is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .registry import Origin

CHUNK = 1 << 16
"""Bytes that a cut connection may lose."""

TIMEOUT = 60.0
"""Seconds without a byte after which a download fails."""

DRIVE = "https://drive.google.com/uc?id="


def download(source: Origin, partial: Path) -> None:
    """Fill `partial`, whose name is kept from one attempt to the next, with the file at `source`."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    DOWNLOADERS[source.kind](source.address, partial)


def published_digits(source: Origin) -> str:
    """The first 8 hex digits of the file's sha256, if its name carries them, or ''."""
    if source.kind not in ("url", "torchvision"):
        return ""
    address = _torchvision_url(source.address) if source.kind == "torchvision" else source.address
    match = re.search(r"-([0-9a-f]{8})\.pth", address)
    return match[1] if match else ""


def _bar(file_name: str, **options: Any) -> Any:
    from tqdm import tqdm

    # With disable=None there is a bar on a terminal, and silence elsewhere.
    return tqdm(desc=file_name, unit="B", unit_scale=True, unit_divisor=1024, disable=None, **options)


def _http(url: str, partial: Path) -> None:
    import pooch

    size = partial.stat().st_size if partial.exists() else 0
    state = partial.with_name(partial.name + ".state")  # it holds the server's name for the version of the file
    version = state.read_text() if size and state.exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if version:
        # The server sends the rest if the version is still the same, or else the whole file.
        headers |= {"Range": f"bytes={size}-", "If-Range": version}

    with partial.open("ab") as file:

        def on_response(response: Any, **_: Any) -> None:
            # 200: the whole file follows; 416: nothing follows what is here already.
            if response.status_code in (200, 416):
                file.truncate(0)
                state.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")

        with _bar(partial.name, total=1) as bar:  # a bar without a total has no truth value; pooch sets it
            fetch = pooch.HTTPDownloader(bar, CHUNK, headers=headers, timeout=TIMEOUT, hooks={"response": on_response})
            fetch(url, file, None)
    state.unlink(missing_ok=True)


def _torchvision_url(member: str) -> str:
    """`ResNet50_Weights.IMAGENET1K_V2` -> the URL that torchvision gives for it."""
    from torchvision import models

    return str(models.get_weight(member).url)


def _torchvision(member: str, partial: Path) -> None:
    _http(_torchvision_url(member), partial)


def _timm(repository: str, partial: Path) -> None:
    _huggingface(f"{repository}:model.safetensors", partial)


def _huggingface(address: str, partial: Path) -> None:
    import shutil

    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository, _, name = address.partition(":")
    # hf_hub_download asks a hub that is not there six times, for half a minute; this asks once.
    get_hf_file_metadata(hf_hub_url(repository, name))
    folder = partial.with_name(partial.name + ".hub")  # huggingface_hub keeps what it needs to resume in here
    Path(hf_hub_download(repository, name, local_dir=folder)).replace(partial)
    shutil.rmtree(folder)


def _gdrive(identity: str, partial: Path) -> None:
    import gdown
    from gdown.exceptions import FileURLRetrievalError

    with _bar(partial.name) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            # Without cookies Drive answers the same on every machine, and none of the user's are touched.
            url = DRIVE + identity
            gdown.download(
                url, str(partial), quiet=True, use_cookies=False, resume=True, timeout=TIMEOUT, progress=show
            )
        except FileURLRetrievalError as error:
            raise CheckpointError(drive_answer(identity, str(error))) from error


def drive_answer(identity: str, text: str) -> str:
    """The message for a page that Google Drive sends instead of the file, or for gdown's reading of it."""
    if re.search(r"quota|too many users|many accesses|can.t view or download", text, re.IGNORECASE):
        return (
            f"Google Drive gives no more of file {identity} for now (its quota of downloads is exceeded); "
            f"try again tomorrow, or download {DRIVE}{identity} in a browser"
        )
    return f"Google Drive does not give file {identity}: {' '.join(text.split())}; try {DRIVE}{identity} in a browser"


DOWNLOADERS: dict[str, Callable[[str, Path], None]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
    "url": _http,
    "gdrive": _gdrive,
}
