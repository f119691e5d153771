"""Fetch weights once, verify them, and remember what was verified.

The weights folder holds one file per checkpoint (and one per linear head that is published apart), `partial/` with
files that are not complete yet, and `checkpoints.lock`: the sha256 of each file as it was when first fetched and
verified. A later download that differs is refused. A warning names each file whose sha256 nobody states, by a name or
a hub: the first of these is trusted.
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
    """How one file stands against the lock file."""

    name: str
    status: str
    """One of ok, not fetched, not recorded, and changed."""
    sha256: str | None
    file: Path


def weights_folder() -> Path:
    return home() / "weights"


def local_files(checkpoint: Checkpoint, folder: Path | None = None) -> list[tuple[Part, Path]]:
    """Each part of a checkpoint and where its file is, or will be."""
    folder = folder or weights_folder()
    suffixes = {"timm": ".safetensors"}
    return [
        (part, folder / f"{checkpoint.name}{middle}{suffixes.get(part.source.kind, '.pth')}")
        for part, middle in zip(checkpoint.parts, ("", ".head"), strict=False)
    ]


def fetch(checkpoint: Checkpoint, folder: Path | None = None) -> list[Path]:
    """Fetch and verify the checkpoint's files; see `fetch_files`."""
    return fetch_files([(part.source, path) for part, path in local_files(checkpoint, folder)])


def fetch_files(files: list[tuple[Origin, Path]]) -> list[Path]:
    """Files of one folder, downloaded if they are not there yet, and verified either way.

    A file put there by hand is accepted like a download. Raises CheckpointError when a file cannot be had or differs
    from the published one. The next call then goes on from the part that has arrived, unless that is known to be wrong.
    """
    with naming_extras("a download"):
        from filelock import FileLock
    folder = files[0][1].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".fetching"):  # otherwise two processes would write the same partial file
            _read_lock(folder / LOCK)  # a damaged lock file is found before a download, which would be thrown away
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
    # Three libraries and the network below them fail in many ways, and the user can do the same about each of them.
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
    """The first error of a chain: 'Name or service not known' says more than the libraries' wrappers around it."""
    cause = error.__cause__ or error.__context__
    return _root(cause) if cause is not None else error


def _verify_and_record(source: Origin, file: Path, path: Path, server_sha256: str | None) -> None:
    """Verify a file, which is or will be `path`, and record its sha256 if none is recorded yet.

    `server_sha256` is the sha256 that the server states of it, if any: the file has that.
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
    """Compare the files on disk with the lock file, one row per file; nothing is downloaded."""
    folder = folder or weights_folder()
    records = _read_lock(folder / LOCK)
    states = []
    for _, path in local_files(checkpoint, folder):
        sha256 = sha256_of(path) if path.exists() else None
        recorded = records.get(path.name, {}).get("sha256")
        status = "not recorded" if recorded is None else "ok" if sha256 == recorded else "changed"
        states.append(FileState(checkpoint.name, "not fetched" if sha256 is None else status, sha256, path))
    return states


# One download per kind of source. Each goes on where an earlier one stopped, and shows a bar on a terminal. Weights
# come over https, or from this machine: whoever sits between could replace what comes over plain http, and most files
# have no published sha256 that would show it. What the network or the server does wrong is raised as requests,
# huggingface_hub and gdown raise it, and gets a line above; CheckpointError where more is known.

CHUNK = 1 << 16
"""Bytes that a cut connection may lose."""

TIMEOUT = 60.0
"""Seconds without a byte after which a download fails."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""The names of this machine."""

HUB_FILE = "model.safetensors"
"""The file of a repository of Hugging Face that is named without one."""

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
    match = re.search(r"-([0-9a-f]{8})\.pth", _address_of(source))
    return match[1] if match else ""


def _address_of(source: Origin) -> str:
    """The address of a file, for a browser."""
    if source.kind == "torchvision":
        return _torchvision_url(source.address)
    if source.kind in ("timm", "huggingface"):
        from huggingface_hub import hf_hub_url

        repository, _, name = source.address.partition(":")
        return str(hf_hub_url(repository, name or HUB_FILE))
    return f"{DRIVE if source.kind == 'gdrive' else ''}{source.address}"


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
    with naming_extras("a download"):
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
    with naming_extras("an address of torchvision"):
        from torchvision import models

    return str(models.get_weight(member).url)


def _huggingface(address: str, partial: Path) -> str | None:
    import shutil

    with naming_extras("a download from Hugging Face"):
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository, _, name = address.partition(":")
    name = name or HUB_FILE
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
    with naming_extras("a download from Google Drive"):
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
    "timm": _huggingface,
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
