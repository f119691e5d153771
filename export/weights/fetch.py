"""Fetch weights once, verify them, and remember what was verified.

The weights folder holds one file per checkpoint (and one per linear head that is published apart), `partial/` with
files that are not complete yet, and `checkpoints.lock`: the sha256 of each file as it was when first fetched and
verified. A later download that differs is refused. A warning names each file whose sha256 nobody states, by a name or
a hub: the first of these is trusted.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...core.errors import CheckpointError
from ...core.files import sha256_of, write_bytes
from ...core.untrusted import one_line, parse_json, read_text, without_secrets, words_of
from ..model_files import home
from .downloads import download, drive_answer, html_title, published_digits
from .study_checkpoints import Checkpoint, Origin, Part

LOCK = "checkpoints.lock"

_log = logging.getLogger("bandlens")


@dataclass(frozen=True, slots=True)
class FileState:
    """How one file stands against the lock file."""

    name: str
    file: Path
    sha256: str | None
    status: str
    """One of ok, not fetched, not recorded, and changed."""


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
    except CheckpointError:
        raise
    # Three libraries and the network below them fail in many ways, and the user can do the same about each of them.
    except Exception as error:
        raise CheckpointError(
            f"cannot fetch {source}: {words_of(_root(error))}; what arrived is kept, try again, or put the file at "
            f"{path}"
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
        states.append(FileState(checkpoint.name, path, sha256, "not fetched" if sha256 is None else status))
    return states
