"""Read images from a folder tree or a tar archive. They are listed first, and then read in one pass."""

from __future__ import annotations

import os
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ...core.errors import ImageSetError, UsageError, did_you_mean, plural
from ...core.untrusted import words_of
from .decode import SUFFIXES

LARGEST_FILE = 1 << 27
"""Maximum size of an image file in bytes. Files are read into memory, several at a time."""
UNDECODED = frozenset((".avif", ".bmp", ".gif", ".heic", ".jp2"))
"""File extensions of image formats that are not supported."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The images of a folder or archive."""

    where: Path
    """Path of the folder or archive."""
    paths: list[str]
    """Sorted paths of the images, relative to the folder or archive, with '/'."""
    ignored: int
    """Number of other files."""
    undecoded: list[str]
    """File extensions among the other files that belong to unsupported image formats."""
    read: Callable[[Container[int]], Iterator[tuple[int, Callable[[], bytes]]]]
    """Read images by their indices in `paths`.

    Yields each image once, in storage order: its index, and a function that returns its bytes and can be called in any
    thread.
    """


def open_source(path: Path) -> ImageSource:
    """List the images of a folder or a tar archive, compressed or not. Images are recognized by their file extension.

    Raises:
        UsageError: The path is neither a folder nor a tar archive.
        ImageSetError: It contains no image, or cannot be listed.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        if _is_image(path.name):
            raise UsageError(f"{path} is one image; give its folder, {path.absolute().parent}")
        return _open_tar(path)
    if set(path.name) & set("*?["):
        raise UsageError(f"{path} is a pattern of files; give their folder, {path.parent}")
    near = did_you_mean(path.name, [file.name for file in path.parent.glob("*")])
    near = near or did_you_mean(str(path), map(str, path.parent.parent.glob(f"*/{path.name}")))
    raise UsageError(f"{path}: no such folder or tar archive of images{near}")


def _open_folder(folder: Path) -> ImageSource:
    try:
        paths, ignored, undecoded = _sorted_images(folder, _files_below(folder))
    # os.walk raises RecursionError before Python 3.12, and OSError if a path is too long.
    except (RecursionError, OSError):
        raise ImageSetError(f"{folder}: folders lie too deep in one another; move the images up") from None

    def read(indices: Container[int]) -> Iterator[tuple[int, Callable[[], bytes]]]:
        for index, path in enumerate(paths):
            if index in indices:
                yield index, partial(read_file, folder / path)

    return ImageSource(folder, paths, ignored, undecoded, read)


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all files in a folder tree, following links."""
    for directory, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        at = Path(directory)
        folders[:] = [name for name in folders if not _leads_back(at / name)]
        inside = at.relative_to(folder).as_posix()
        yield from files if inside == "." else (f"{inside}/{name}" for name in files)


def _leads_back(folder: Path) -> bool:
    """Return whether a folder is a link to one of its own parents, which would lead to infinite recursion."""
    return folder.is_symlink() and folder.resolve() in {step.resolve() for step in folder.parents}


def _unreadable(error: OSError) -> None:
    raise ImageSetError(f"{error.filename}: cannot be read ({words_of(error)}); make it readable or move it away")


def read_file(file: Path) -> bytes:
    """Read an image file. Raises ImageSetError if this fails."""
    try:
        if not file.is_file():  # for example a broken link, or a pipe, which might block forever
            raise ImageSetError(f"{file}: neither a file nor a link to one; remove it")
        if file.stat().st_size > LARGEST_FILE:
            raise ImageSetError(f"{file}: has {file.stat().st_size} bytes, too many for an image; remove it")
        return file.read_bytes()
    except OSError as error:
        raise ImageSetError(f"{file}: cannot be read ({words_of(error)}); make it readable or move it away") from error


def _open_tar(tar: Path) -> ImageSource:
    paths, ignored, undecoded = _sorted_images(tar, (_member_name(tar, member) for _, member in _members(tar)))
    index_of = {path: index for index, path in enumerate(paths)}

    def read(indices: Container[int]) -> Iterator[tuple[int, Callable[[], bytes]]]:
        # Read in the order of the archive. Seeking backwards in a compressed archive means decompressing it from the
        # start.
        for archive, member in _members(tar):
            index = index_of.get(_member_name(tar, member))
            if index in indices and index is not None and (file := archive.extractfile(member)) is not None:
                with _tar_errors(tar):
                    data = file.read()
                yield index, partial(bytes, data)

    return ImageSource(tar, paths, ignored, undecoded, read)


def _members(tar: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield all members except folders, each with the open archive to read it from. Nothing is extracted to disk."""
    last = -1
    with _tar_errors(tar), tarfile.open(tar) as archive:
        while member := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile caches members, about 1 KB each
            # A damaged archive can refer to an earlier member, which would lead to an infinite loop.
            if member.offset <= last:
                raise tarfile.ReadError(f"member '{member.name}' lies before the one in front of it")
            last = member.offset
            if not member.isdir():
                yield archive, member


@contextmanager
def _tar_errors(tar: Path) -> Iterator[None]:
    """Convert the errors of a damaged archive to ImageSetError."""
    try:
        yield
    # Catch everything, because tarfile and the decompressors raise many different exceptions for damaged archives.
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        advice = "give a folder (unpack a ZIP), or make or download the archive again"
        raise ImageSetError(f"{tar}: not a whole tar archive ({reason}); {advice}") from error


def _member_name(tar: Path, member: tarfile.TarInfo) -> str:
    """Return the path of a member. Raises ImageSetError for an image that is unsafe to read."""
    name = PurePosixPath(member.name)
    if _is_image(str(name)):
        if name.is_absolute() or ".." in name.parts:
            raise ImageSetError(f"{tar}: member '{member.name}' lies outside the archive; make it with relative paths")
        if not member.isreg():
            raise ImageSetError(
                f"{tar}: member '{name}' is a link, not a file; make the archive with the files themselves"
            )
        if member.size > LARGEST_FILE:
            raise ImageSetError(f"{tar}: member '{name}' has {member.size} bytes, too many for an image; remove it")
    return str(name)


def _is_image(path: str) -> bool:
    # Skip hidden files and folders. Other programs use them for metadata (such as ._x.jpg of macOS) and for copies.
    is_hidden = any(part.startswith(".") and part != ".." for part in PurePosixPath(path).parts)
    return path.lower().endswith(SUFFIXES) and not is_hidden


def _sorted_images(source: Path, files: Iterator[str]) -> tuple[list[str], int, list[str]]:
    """Return the sorted paths of images, the number of other files, and those of their extensions in `UNDECODED`."""
    count: Counter[str] = Counter()
    ignored, endings = 0, set[str]()
    for path in files:
        if not _is_image(path):
            ignored += 1
            endings.add(PurePosixPath(path).suffix.lower())
            continue
        if not path.isprintable() and any(unicodedata.category(sign) in ("Cc", "Cs") for sign in path):
            raise ImageSetError(f"{source}: the file name {path!a} has control signs or is not UTF-8; rename it")
        count[path] += 1
    if not count:
        raise ImageSetError(f"{source}: no image among {plural(ignored, 'file')}; images end in {', '.join(SUFFIXES)}")
    path, times = count.most_common(1)[0]
    if times > 1:
        raise ImageSetError(f"{source}: '{path}' is there {times} times; keep one of them")
    return sorted(count), ignored, sorted(endings & UNDECODED)
