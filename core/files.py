"""Atomic file writes: create partial files, rename them to their final name, and remove those of crashed processes.

A partial file is created in the folder of its final file, so that it can be renamed atomically. Its name contains the
host and the process id of its writer, so that other processes can tell whether it is still being written. The rest of
the name is random, and the file is created exclusively: if somebody else has planted a file or link under such a name,
it is neither followed nor written to.
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
# A container can have the same host name as its host or another container without seeing the processes there. The
# number of the PID namespace tells them apart. Only Linux has it.
with suppress(OSError):
    HOST += f"-{Path('/proc/self/ns/pid').stat().st_ino}"
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2
"""Arguments of Linux's `renameat2`: resolve relative paths from the current folder, fail if the target exists, and
exchange the two paths atomically."""


def partial_prefix(path: Path) -> str:
    """Return the prefix of the hidden partial files that this process creates for `path`."""
    return f".{path.name}.{HOST}.{os.getpid()}."


def remove_partial_files(path: Path) -> None:
    """Remove partial files of `path` whose writers, processes of this machine, have ended."""
    with suppress(OSError):  # the folder may be read-only
        for partial in partial_files(path):
            if lost_its_maker(partial, path.name):
                if partial.is_dir() and not partial.is_symlink():
                    shutil.rmtree(partial, ignore_errors=True)
                else:
                    partial.unlink(missing_ok=True)


def partial_files(path: Path) -> list[Path]:
    """List all partial files of `path`, including those of other machines and of running processes."""
    match_partial = re.compile(rf"\.{re.escape(path.name)}\.[\w-]+\.\d+\.").match
    return [file for file in path.parent.iterdir() if match_partial(file.name)]


def lost_its_maker(partial: Path, name: str) -> bool:
    """Return whether a partial file of `name` was created by a process of this machine that has ended."""
    maker = re.match(rf"\.{re.escape(name)}\.{re.escape(HOST)}\.(\d+)\.", partial.name)
    return maker is not None and not _runs(int(maker[1]))


@contextmanager
def open_draft(path: Path, clean: bool = True) -> Iterator[Path]:
    """Yield a temporary path with the name of `path`, in a new hidden folder next to it. The folder is removed later.

    Args:
        path: Final path of the file.
        clean: Whether to remove partial files of crashed processes first. This lists the whole folder of `path`, which
            is slow if it contains many files.
    """
    if clean:
        remove_partial_files(path)
    with TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent, ignore_cleanup_errors=True) as folder:
        # Since Python 3.12 `folder` is absolute. Joining its name to the parent keeps a relative path relative.
        yield path.parent / Path(folder).name / path.name


@contextmanager
def replacing(path: Path, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` when the block succeeds, and is removed when it fails.

    A symbolic link stays a link: the file that it points to is replaced. The new file gets the owner of the old one,
    and no permissions that the old one did not have.

    Args:
        path: Final path of the file. Missing parent folders are created.
        sources: Files whose contents appear in the new file. It becomes readable only to users who can read all of
            them.

    Raises:
        IsADirectoryError: There is a folder at `path`.
    """
    path = behind_links(path)
    if path.is_dir():  # checked first, because a path such as `.` has no name to derive a temporary name from
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_draft(path) as draft:
        yield draft
        take_name(draft, path, sources)


def write_bytes(path: Path, content: bytes, sources: Sequence[Path] = ()) -> None:
    """Write a file atomically. See `replacing` for links and permissions."""
    with replacing(path, sources) as temporary:
        temporary.write_bytes(content)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a complete partial file or folder to its final name, so that it survives a power failure."""
    # The contents must reach the disk before the rename does: otherwise the final name could refer to an empty file
    # after a power failure. The folder is synchronized last, which makes the rename itself durable.
    _sync(*partial.rglob("*"), partial)
    take_name(partial, path)
    _sync(path.parent)


def put_beside(partial: Path, path: Path) -> None:
    """Give a complete partial file a second name at `path`, durably as in `put_in_place`.

    Raises:
        FileExistsError: `path` exists already.
    """
    _sync(partial)
    # Unlike a rename, a hard link never replaces an existing file, also if two processes try at the same time.
    os.link(partial, path)
    _sync(path.parent)


def exchange_folders(partial: Path, path: Path) -> None:
    """Exchange a complete partial folder with the folder at `path`, in one atomic step where possible.

    If the operating system or the file system has no atomic exchange, three renames are used. In between, the old
    folder has another hidden name, under which it remains if the process is killed at this moment: no later command
    removes it. After an error, the old folder is at `path` again.
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
    """Move a file, link or folder within one file system.

    Raises:
        FileExistsError: There is something at `target`.
    """
    state = source.lstat()
    # Moving a folder updates its `..` entry, so Linux requires write permission for the folder itself.
    locked = S_ISDIR(state.st_mode) and not state.st_mode & S_IWUSR
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
    """Rename with Linux's `renameat2`. Return False if the system or the file system does not support this."""
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
    """Rename a complete partial file to `path`, and transfer the permissions and the owner of the file it replaces.

    The owner is transferred only if this process is allowed to. The permissions are those that all `sources` and the
    replaced file have in common.

    Args:
        partial: The partial file or folder.
        path: Its final path, which must not be a symbolic link (see `behind_links`).
        sources: Files whose contents appear in the new file.
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
    """Give a file the permissions that all `files` have in common, and their group. `files` must not be empty.

    The group gets no permissions if the files belong to different groups, or if this process cannot assign their group.
    """
    states = [file.stat() for file in files]
    mode = reduce(and_, (S_IMODE(state.st_mode) for state in states))
    with suppress(OSError):
        os.chown(partial, -1, states[-1].st_gid)
    if {state.st_gid for state in states} != {partial.stat().st_gid}:
        mode &= ~S_IRWXG
    partial.chmod(mode)


def behind_links(path: Path) -> Path:
    """Resolve a symbolic link, so that replacing the result leaves the link in place.

    The target need not exist. A link that points to itself is returned unchanged, and writing to it fails later.
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
    # A process of another user exists but cannot be signaled. A number that is too large is treated as running too, so
    # that nothing is removed in doubt.
    except (PermissionError, OverflowError):
        pass
    return True
