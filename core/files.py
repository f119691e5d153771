"""Files that are written in one step: partial files, how they take their place, and the removal of those left behind.

A partial file lies in the folder of the file that it will be. Its name says which process of which machine makes it, so
that others can tell whether it is still being made. The rest of the name is random, and the process makes the file
itself: what lies there by such a name, such as a link of somebody else's, is neither followed nor written to.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from operator import and_
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE, S_IRWXG, S_ISDIR, S_IWUSR
from tempfile import TemporaryDirectory

HOST = re.sub(r"[^\w-]", "-", socket.gethostname())
with suppress(OSError):  # Linux alone has it: a container can have this host's name, and see none of its processes
    HOST += f"-{Path('/proc/self/ns/pid').stat().st_ino}"
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2
"""Arguments of Linux' renameat2: paths are as the process sees them, no file is replaced, two names are exchanged."""


def partial_prefix(path: Path) -> str:
    """The first letters of the names of the hidden partial files that this process makes on the way to `path`."""
    return f".{path.name}.{HOST}.{os.getpid()}."


def remove_partial_files(path: Path) -> None:
    """Remove what processes of this machine that have ended left in the folder on the way to `path`."""
    with suppress(OSError):  # a folder that may only be read
        for partial in partial_files(path):
            if lost_its_maker(partial, path.name):
                if partial.is_dir() and not partial.is_symlink():
                    shutil.rmtree(partial, ignore_errors=True)
                else:
                    partial.unlink(missing_ok=True)


def partial_files(path: Path) -> list[Path]:
    """List the partial files on the way to `path` that processes of any machine make, or left in its folder."""
    match_partial = re.compile(rf"\.{re.escape(path.name)}\.[\w-]+\.\d+\.").match
    return [file for file in path.parent.iterdir() if match_partial(file.name)]


def lost_its_maker(partial: Path, name: str) -> bool:
    """Whether a process of this machine that has ended made a partial file on the way to `name`."""
    maker = re.match(rf"\.{re.escape(name)}\.{re.escape(HOST)}\.(\d+)\.", partial.name)
    return maker is not None and not _runs(int(maker[1]))


@contextmanager
def open_draft(path: Path, clean: bool = True) -> Iterator[Path]:
    """A path of the same name in a new hidden folder beside `path`; this process makes the folder, and removes it.

    Without `clean` it does not look for what processes that have ended left, which lists the whole folder of `path`.
    """
    if clean:
        remove_partial_files(path)
    with TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent, ignore_cleanup_errors=True) as folder:
        yield path.parent / Path(folder).name / path.name  # from Python 3.12 on `folder` is absolute


@contextmanager
def replacing(path: Path, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not.

    A link stays, and what it leads to is replaced; the new file has the mode and the owner of the old one. Where it
    shows what is in files of `sources`, nobody may read it who may not read these.
    """
    path = behind_links(path)
    if path.is_dir():  # `.` has no name that a file beside it could take up
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_draft(path) as draft:
        yield draft
        take_name(draft, path, sources)


def write_bytes(path: Path, content: bytes, sources: Sequence[Path] = ()) -> None:
    with replacing(path, sources) as temporary:
        temporary.write_bytes(content)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file or folder that is whole its name; what the name stands for is on the disk before the name is."""
    _sync(*partial.rglob("*"), partial)
    take_name(partial, path)
    _sync(path.parent)


def put_beside(partial: Path, path: Path) -> None:
    """Give a file that is whole a name that is free, as `put_in_place` does; FileExistsError where it is taken."""
    _sync(partial)
    os.link(partial, path)
    _sync(path.parent)


def exchange_folders(partial: Path, path: Path) -> None:
    """Give a folder that is whole the name of the one at `path`, which gets the partial one's, in one step.

    Where the system or the file system cannot do that, it takes three, and the old folder has another hidden name
    in between, which no later command removes. After an error the folder at `path` is as it was.
    """
    share_access(partial, [path])
    _sync(*partial.rglob("*"), partial)
    if not _rename(partial, path, RENAME_EXCHANGE):
        replaced = path.with_name(f".{path.name}.replaced.{token_hex(8)}")
        path.rename(replaced)
        try:
            partial.rename(path)
        except OSError:
            replaced.rename(path)
            raise
        replaced.rename(partial)
    _sync(path.parent)


def move_place(source: Path, target: Path) -> None:
    """Move a file, link or folder within a file system; FileExistsError where there is something at `target`."""
    state = source.lstat()
    locked = S_ISDIR(state.st_mode) and not state.st_mode & S_IWUSR  # Linux moves no folder that may only be read
    if locked:
        source.chmod(S_IMODE(state.st_mode) | S_IWUSR)
    try:
        if not _rename(source, target, RENAME_NOREPLACE):
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            source.rename(target)
        source = target
    finally:
        if locked:
            source.chmod(S_IMODE(state.st_mode))


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Rename by Linux' renameat2; False where the system or the file system does not know it or its flag."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if not libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flag):
        return True
    error = ctypes.get_errno()
    if error in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(error, os.strerror(error), str(target))


def take_name(partial: Path, path: Path, sources: Sequence[Path] = ()) -> None:
    """Replace the file at `path` by one that is whole, which gets the mode and, where that is allowed, the owner.

    `path` is no link: see `behind_links`. What others may do with the file, they may with all `sources` and with the
    file that was at `path`.
    """
    files = [*sources]
    with suppress(FileNotFoundError):
        replaced = path.stat()
        if not partial.is_dir():
            with suppress(OSError):
                os.chown(partial, replaced.st_uid, -1)
            files.append(path)
    if files:
        share_access(partial, files)
    partial.replace(path)


def share_access(partial: Path, files: Sequence[Path]) -> None:
    """Give a file the permissions that all of `files` have, one at least, and their group.

    Where they have several groups, or this process may not give theirs, the group has no permissions.
    """
    states = [file.stat() for file in files]
    mode = reduce(and_, (S_IMODE(state.st_mode) for state in states))
    with suppress(OSError):
        os.chown(partial, -1, states[-1].st_gid)
    if {state.st_gid for state in states} != {partial.stat().st_gid}:
        mode &= ~S_IRWXG
    partial.chmod(mode)


def behind_links(path: Path) -> Path:
    """The file that a path leads to, so that what takes its place leaves a link as it is.

    The file need not be there. A link that leads to itself is given as it is: to write through it fails.
    """
    with suppress(OSError, RuntimeError):
        return path.resolve() if path.is_symlink() else path
    return path


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
    except (PermissionError, OverflowError):  # it is another user's
        pass
    return True
