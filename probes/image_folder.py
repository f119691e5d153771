"""A folder that appears only when it is whole: filled under another name, synced, then renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ImageSetError, UsageError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well and is removed when it does not.

    A killed process leaves it behind as `.NAME.partial`; the next one for the same `out` clears it.
    """
    with writing(out):
        refuse_taken(out)
        if not out.parent.is_dir():
            raise UsageError(f"{out.parent}: no such folder; make it first")
        partial = out.with_name(f".{out.name}.partial")
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
    try:
        with writing(out):
            _lock(lock, out)
        try:
            with writing(out):
                _clear(partial)
            yield partial
            with writing(out):
                _sync(*partial.iterdir(), partial)
                partial.rename(out)
                _sync(out.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def refuse_taken(out: Path) -> None:
    """UsageError where there is something at `out`."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: already exists; remove it or choose another folder")


def _lock(folder: int, out: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ImageSetError(f"{out}: is being packed by another process; wait for it or choose another") from None


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        left.unlink()


def _sync(*paths: Path) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """What the disk refuses is an ImageSetError."""
    try:
        yield
    except OSError as error:
        raise ImageSetError(
            f"{out}: cannot be written ({error.strerror}); make room or choose another folder"
        ) from error


def need_space(out: Path, count: int, size: int) -> str:
    """What `count` images of size x size pixels take, in words; ImageSetError where the disk of `out` has no room.

    Without pixels, `size` is 0.
    """
    need = count * (3 * size * size + 200)  # 200 bytes: a generous row of the index
    folder = next(folder for folder in out.parents if folder.exists())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ImageSetError(
            f"{out}: {count} images need {need / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; "
            "make room or choose another folder"
        )
    return f"{count:,} images need {need / 1e9:.3g} GB on disk; {free / 1e9:.3g} GB are free"
