"""Download weights once, verify them, and record their checksums.

The weights folder contains one file per checkpoint, another one for each linear head that is published separately,
incomplete downloads in `partial/`, and `checkpoints.lock`. The lock file records the SHA-256 of each file when it was
first downloaded and verified. A later download that differs is rejected. If neither the file name nor the server states
a SHA-256, the first download is trusted, and a warning names the file.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ...core.errors import BandlensError, CheckpointError
from ...core.extras import naming_extras
from ...core.files import sha256_of, write_bytes
from ...core.untrusted import one_line, parse_json, read_text, without_secrets, words_of
from ..model_files import home
from .study_checkpoints import Checkpoint, Origin, Part

LOCK = "checkpoints.lock"

_log = logging.getLogger("bandlens")


@dataclass(frozen=True, slots=True)
class FileState:
    """Result of comparing a file with the lock file."""

    name: str
    status: str
    """`ok`, `not fetched`, `not recorded` or `changed`."""
    sha256: str | None
    file: Path


def weights_folder() -> Path:
    return home() / "weights"


def local_files(checkpoint: Checkpoint, folder: Path | None = None) -> list[tuple[Part, Path]]:
    """Return each part of a checkpoint with the path of its file, which need not exist yet."""
    folder = folder or weights_folder()
    suffixes = {"timm": ".safetensors"}
    return [
        (part, folder / f"{checkpoint.name}{middle}{suffixes.get(part.source.kind, '.pth')}")
        for part, middle in zip(checkpoint.parts, ("", ".head"), strict=False)
    ]


def fetch(checkpoint: Checkpoint, folder: Path | None = None) -> list[Path]:
    """Download and verify the files of a checkpoint; see `fetch_files`."""
    return fetch_files([(part.source, path) for part, path in local_files(checkpoint, folder)])


def fetch_files(files: list[tuple[Origin, Path]]) -> list[Path]:
    """Download files that do not exist yet, and verify all of them.

    A file that the user placed at the path is accepted like a download. If a download is interrupted, the next call
    resumes it, unless the part that has arrived is known to be wrong.

    Args:
        files: Source and path of each file. All paths are in the same folder.

    Returns:
        The paths.

    Raises:
        CheckpointError: A file cannot be downloaded or written, or differs from the published or the recorded one.
    """
    with naming_extras("a download"):
        from filelock import FileLock
    folder = files[0][1].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".fetching"):  # prevents two processes from writing the same partial file
            _read_lock(folder / LOCK)  # detect a damaged lock file before downloading
            return [_fetch_part(source, path) for source, path in files]
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {words_of(error)}; make room or set BANDLENS_HOME") from error


def _fetch_part(source: Origin, path: Path) -> Path:
    if path.exists():
        _verify_and_record(source, path, path, None)
        return path
    partial = path.parent / "partial" / path.name
    try:
        server_sha256 = download(source, partial)
    except BandlensError:
        raise
    # Three libraries raise many types of exceptions for network errors. The advice is the same for all of them.
    except Exception as error:
        raise CheckpointError(
            f"cannot fetch {_address_of(source)}: {words_of(_root(error))}; what arrived is kept, try again, or "
            f"download it elsewhere and put it at {path}"
        ) from error
    try:
        _verify_and_record(source, partial, path, server_sha256)
    except CheckpointError:
        partial.unlink()
        raise
    partial.replace(path)
    return path


def _root(error: BaseException) -> BaseException:
    """Return the first exception of a chain, which is more specific than those of the libraries that wrap it."""
    cause = error.__cause__ or error.__context__
    return _root(cause) if cause is not None else error


def _verify_and_record(source: Origin, file: Path, path: Path, server_sha256: str | None) -> None:
    """Verify a file, and record its SHA-256 if the lock file has no entry for it.

    Args:
        source: Where the file was downloaded from.
        file: The file to verify.
        path: Final path of the file.
        server_sha256: SHA-256 stated by the server, which has already been verified, or None.
    """
    title = html_title(file)
    if title is not None:
        if source.kind == "gdrive":
            raise CheckpointError(f"{drive_answer(source.address, title)}, and save it as {path}")
        raise CheckpointError(f"{source} answered with a web page ('{title}') instead of weights; try again later")
    sha256, digits = sha256_of(file), published_digits(source)
    if not sha256.startswith(digits):
        raise CheckpointError(
            f"{path.name} from {source} has sha256 {sha256[:8]}… but its name says {digits}; "
            f"delete {path} if it is there, and fetch again"
        )
    lock_file = path.parent / LOCK
    records = _read_lock(lock_file)
    recorded_sha256 = records.get(path.name, {}).get("sha256", sha256)
    if recorded_sha256 != sha256:
        raise CheckpointError(
            f"{path.name} from {source} has sha256 {sha256[:8]}… but {recorded_sha256[:8]}… when first fetched; "
            f"delete {path} if it is there, and fetch again, or remove its entry from {lock_file} to accept it"
        )
    if path.name not in records:
        records[path.name] = {"sha256": sha256, "bytes": file.stat().st_size, "source": without_secrets(str(source))}
        write_bytes(lock_file, json.dumps(records, indent=1, sort_keys=True).encode())
        if not (server_sha256 or digits):
            _log.warning(
                one_line(
                    f"bandlens: warning: {path.name} from {source} is trusted as it is, for neither its name nor its "
                    f"server stated a sha256; from now on {lock_file} asks for {sha256}"
                )
            )


def _read_lock(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        records: dict[str, dict[str, Any]] = parse_json(read_text(path))
        if not isinstance(records, dict) or not all(isinstance(records[name]["sha256"], str) for name in records):
            raise ValueError("it does not list files with their sha256")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; delete it to record the files anew") from error
    return records


def verify(checkpoint: Checkpoint, folder: Path | None = None) -> list[FileState]:
    """Compare the files of a checkpoint with the lock file, without downloading anything.

    Returns:
        The state of each file.
    """
    folder = folder or weights_folder()
    records = _read_lock(folder / LOCK)
    states = []
    for _, path in local_files(checkpoint, folder):
        sha256 = sha256_of(path) if path.exists() else None
        recorded = records.get(path.name, {}).get("sha256")
        status = "not recorded" if recorded is None else "ok" if sha256 == recorded else "changed"
        states.append(FileState(checkpoint.name, "not fetched" if sha256 is None else status, sha256, path))
    return states


# Downloaders, one for each kind of source. Each resumes an interrupted download, and shows a progress bar on a
# terminal. Only https and connections to this machine are allowed: an attacker on the network could replace a file sent
# over plain http, and most files have no published SHA-256 that would reveal this. Exceptions of requests,
# huggingface_hub and gdown are not caught here; `_fetch_part` converts them. CheckpointError is raised if the cause is
# known.

CHUNK = 1 << 16
"""Bytes per write, the most that an interrupted connection loses."""

TIMEOUT = 60.0
"""Seconds without data after which a download fails."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Host names of this machine."""

HUB_FILE = "model.safetensors"
"""Default file in a Hugging Face repository."""

DRIVE = "https://drive.google.com/uc?id="


def download(source: Origin, partial: Path) -> str | None:
    """Download the file at `source` to `partial`, resuming an earlier attempt.

    Args:
        source: Location of the file.
        partial: Output path. It must be the same for each attempt.

    Returns:
        The SHA-256 stated by the server, which has been verified, or None if it states none.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    return DOWNLOADERS[source.kind](source.address, partial)


def published_digits(source: Origin) -> str:
    """Return the first 8 hexadecimal digits of the file's SHA-256 if its name contains them, or ''."""
    if source.kind not in ("url", "torchvision"):
        return ""
    match = re.search(r"-([0-9a-f]{8})\.pth", _address_of(source))
    return match[1] if match else ""


def _address_of(source: Origin) -> str:
    """Return the URL of a file."""
    if source.kind == "torchvision":
        return _torchvision_url(source.address)
    if source.kind in ("timm", "huggingface"):
        from huggingface_hub import hf_hub_url

        repository, _, name = source.address.partition(":")
        return str(hf_hub_url(repository, name or HUB_FILE))
    return f"{DRIVE if source.kind == 'gdrive' else ''}{source.address}"


def check_address(address: str) -> None:
    """Check that a URL uses https or refers to this machine.

    Raises:
        CheckpointError: It does not.
    """
    parts = urlsplit(address)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise CheckpointError(
            f"{without_secrets(address)} is plain http, over which anybody on the way can replace weights; "
            "fetch from a network, or with an HF_ENDPOINT, that leads to https"
        )


def check_redirect(url: str, target: str) -> None:
    """Check that a redirect does not lead to plain http.

    Args:
        url: URL that was requested.
        target: URL of the redirect.

    Raises:
        CheckpointError: The target uses plain http.
    """
    if url.startswith("https:") and not target.startswith("https:"):
        # Unlike `check_address`, do not allow this machine: a remote server must not redirect to local ports.
        raise CheckpointError(
            f"{without_secrets(url)} redirects to {without_secrets(target)}, which is plain http; try again "
            "from another network"
        )
    check_address(target)


def _bar(file_name: str, **options: Any) -> Any:
    from tqdm import tqdm

    # disable=None shows the bar only on a terminal.
    return tqdm(desc=file_name, unit="B", unit_scale=True, unit_divisor=1024, disable=None, **options)


def _http(url: str, partial: Path) -> None:
    with naming_extras("a download"):
        import pooch

    size = partial.stat().st_size if partial.exists() else 0
    state = partial.with_name(partial.name + ".state")  # the ETag or modification date of the file
    version = state.read_text() if size and state.exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if version:
        # The server sends the rest of the file if the version is unchanged, and the whole file otherwise.
        headers |= {"Range": f"bytes={size}-", "If-Range": version}

    check_address(url)
    with partial.open("ab") as file:

        def on_response(response: Any, **_: Any) -> None:
            check_redirect(response.url, urljoin(response.url, response.headers.get("Location", "")))
            # 200: the whole file follows. 416: the requested range is empty, so start again. Discard what has arrived.
            if response.status_code in (200, 416):
                file.truncate(0)
                state.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")

        with _bar(partial.name, total=1) as bar:  # without a total, bool(bar) raises; pooch sets the total
            fetch = pooch.HTTPDownloader(bar, CHUNK, headers=headers, timeout=TIMEOUT, hooks={"response": on_response})
            fetch(url, file, None)
    state.unlink(missing_ok=True)


def _torchvision_url(member: str) -> str:
    """Return torchvision's URL for a member such as `ResNet50_Weights.IMAGENET1K_V2`."""
    with naming_extras("an address of torchvision"):
        from torchvision import models

    return str(models.get_weight(member).url)


def _huggingface(address: str, partial: Path) -> str | None:
    import shutil

    with naming_extras("a download from Hugging Face"):
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository, _, name = address.partition(":")
    name = name or HUB_FILE
    # If the Hub is not reachable, hf_hub_download retries six times, for half a minute. Query the metadata first, which
    # tries only once.
    url = hf_hub_url(repository, name)
    check_address(url)
    # The Hub states the SHA-256 of each large file. The file itself comes from another server.
    metadata = get_hf_file_metadata(url)
    check_redirect(url, metadata.location)
    hub_sha256 = metadata.etag if re.fullmatch("[0-9a-f]{64}", metadata.etag or "") else None
    folder = partial.with_name(partial.name + ".hub")  # huggingface_hub stores its state for resuming here
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
    with naming_extras("a download from Google Drive"):
        import gdown
        from gdown.exceptions import FileURLRetrievalError

    with _bar(partial.name) as bar:

        def show(position: int, total: int | None) -> None:
            bar.total = total
            bar.update(position - bar.n)

        try:
            # Without cookies, Drive responds the same on every machine, and the user's cookies are not used.
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
    """Return the error message for a page that Google Drive sent instead of the file, or for gdown's error about it."""
    if re.search(r"quota|too many users|many accesses|can.t view or download", text, re.IGNORECASE):
        return (
            f"Google Drive gives no more of file {identity} for now (its quota of downloads is exceeded); "
            f"try again tomorrow, or download {DRIVE}{identity} in a browser"
        )
    return f"Google Drive does not give file {identity}: {' '.join(text.split())}; try {DRIVE}{identity} in a browser"


DOWNLOADERS: dict[str, Callable[[str, Path], str | None]] = {
    "timm": _huggingface,
    "torchvision": lambda member, partial: _http(_torchvision_url(member), partial),
    "huggingface": _huggingface,
    "url": _http,
    "gdrive": _gdrive,
}


def html_title(path: Path) -> str | None:
    """Return the title of a web page, or '' if it has none. Return None for other files.

    Some servers send a web page instead of the weights.
    """
    with path.open("rb") as file:
        text = file.read(1 << 16).decode("utf-8", "replace")
    if not re.match(r"\s*(<!doctype html|<html|<head)", text.removeprefix("\ufeff"), re.IGNORECASE):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return " ".join(title[1].split()) if title else ""
