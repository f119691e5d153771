"""What is not whole yet, beside what it will be: its name, how it takes its place, and what killed processes left."""

from __future__ import annotations

import os
import re
import shutil
import socket
from contextlib import suppress
from pathlib import Path

HOST = re.sub(r"[^\w-]", "-", socket.gethostname())
with suppress(OSError):  # of Linux: a container can have this host's name, and see none of its processes
    HOST += f"-{Path('/proc/self/ns/pid').stat().st_ino}"


def prefix(path: Path) -> str:
    """How the name of a hidden file or folder begins that this process makes on the way to `path`."""
    return f".{path.name}.{HOST}.{os.getpid()}."


def remove_leavings(folder: Path, name: str | None = None) -> None:
    """Remove what processes of this machine that are gone left in the folder on the way to `name`, or to any."""
    of_host = re.compile(rf"\.{re.escape(name) if name else '.+'}\.{re.escape(HOST)}\.(\d+)\.")
    with suppress(OSError):  # a folder that may only be read
        for left in folder.iterdir():
            made_by = of_host.match(left.name)
            if made_by and not _runs(int(made_by[1])):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def put_in_place(draft: Path, path: Path) -> None:
    """Give a file or folder that is whole its name; what the name stands for is on the disk before the name is."""
    _sync(*draft.rglob("*"), draft)
    draft.replace(path)
    _sync(path.parent)


def _sync(*paths: Path) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's
        pass
    return True
