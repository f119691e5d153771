"""One download per kind of source. Each goes on where an earlier one stopped, and shows a bar on a terminal.

Weights come over https, or from this machine: whoever sits between could replace what comes over plain http, and most
files have no published sha256 that would show it.

What the network or the server does wrong is raised as requests, huggingface_hub and gdown raise it; `fetch` gives it a
line. CheckpointError where more is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ...core.errors import CheckpointError
from ...core.files import sha256_of
from ...core.untrusted import without_secrets
from .study_checkpoints import Origin

CHUNK = 1 << 16
"""Bytes that a cut connection may lose."""

TIMEOUT = 60.0
"""Seconds without a byte after which a download fails."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""The names of this machine."""

DRIVE = "https://drive.google.com/uc?id="


def download(source: Origin, partial: Path) -> str | None:
    """Fill `partial`, whose name is kept from one attempt to the next, with the file at `source`.

    Gives the sha256 that the server states apart from the file, which it then has, or None.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    return DOWNLOADERS[source.kind](source.address, partial)


def published_digits(source: Origin) -> str:
    """The first 8 hex digits of the file's sha256, if its name carries them, or ''."""
    if source.kind not in ("url", "torchvision"):
        return ""
    address = _torchvision_url(source.address) if source.kind == "torchvision" else source.address
    match = re.search(r"-([0-9a-f]{8})\.pth", address)
    return match[1] if match else ""


def check_address(address: str) -> None:
    """Raise CheckpointError for an address of plain http, unless it is this machine's own."""
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise CheckpointError(
            f"{without_secrets(address)} is plain http, over which anybody on the way can replace weights; "
            "fetch from a network, or with an HF_ENDPOINT, that leads to https"
        )


def check_redirect(url: str, target: str) -> None:
    """Raise CheckpointError where the address that `url` redirects to is plain http."""
    if url.startswith("https:") and not target.startswith("https:"):
        # A server elsewhere has no business with the ports of this machine either.
        raise CheckpointError(
            f"{without_secrets(url)} redirects to {without_secrets(target)}, which is plain http; try again "
            "from another network"
        )
    check_address(target)


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

    check_address(url)
    with partial.open("ab") as file:

        def on_response(response: Any, **_: Any) -> None:
            check_redirect(response.url, urljoin(response.url, response.headers.get("Location", "")))
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


def _huggingface(address: str, partial: Path) -> str | None:
    import shutil

    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository, _, name = address.partition(":")
    # hf_hub_download asks a hub that is not there six times, for half a minute; this asks once.
    url = hf_hub_url(repository, name)
    check_address(url)
    # The hub states the sha256 of every large file, which comes from another server.
    metadata = get_hf_file_metadata(url)
    check_redirect(url, metadata.location)
    hub_sha256 = metadata.etag if re.fullmatch("[0-9a-f]{64}", metadata.etag or "") else None
    folder = partial.with_name(partial.name + ".hub")  # huggingface_hub keeps what it needs to resume in here
    file = Path(hf_hub_download(repository, name, local_dir=folder))
    sha256 = sha256_of(file)
    if hub_sha256 and hub_sha256 != sha256:
        shutil.rmtree(folder)
        raise CheckpointError(
            f"{address} has sha256 {sha256[:8]}… but the hub states {hub_sha256[:8]}…; it was thrown away, "
            "fetch it again"
        )
    file.replace(partial)
    shutil.rmtree(folder)
    return hub_sha256


def _gdrive(identity: str, partial: Path) -> None:
    import gdown
    from gdown.exceptions import FileURLRetrievalError

    with _bar(partial.name) as bar:

        def show(position: int, total: int | None) -> None:
            bar.total = total
            bar.update(position - bar.n)

        try:
            # Without cookies Drive answers the same on every machine, and none of the user's are touched.
            gdown.download(
                DRIVE + identity,
                str(partial),
                quiet=True,
                use_cookies=False,
                resume=True,
                timeout=TIMEOUT,
                progress=show,
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


DOWNLOADERS: dict[str, Callable[[str, Path], str | None]] = {
    "timm": lambda repository, partial: _huggingface(f"{repository}:model.safetensors", partial),
    "torchvision": lambda member, partial: _http(_torchvision_url(member), partial),
    "huggingface": _huggingface,
    "url": _http,
    "gdrive": _gdrive,
}


def html_title(path: Path) -> str | None:
    """The title (or '') of a web page, such as servers send instead of weights; None for other files."""
    with path.open("rb") as file:
        text = file.read(1 << 16).decode("utf-8", "replace")
    if not re.match(r"\s*(<!doctype html|<html|<head)", text.removeprefix("\ufeff"), re.IGNORECASE):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return " ".join(title[1].split()) if title else ""
