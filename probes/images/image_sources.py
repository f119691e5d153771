"""Sources of images, a folder tree or a tar archive, which are listed first and then read once."""

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
"""The most bytes that an image file may have: files are read into memory, several at a time."""
UNDECODED = frozenset((".avif", ".bmp", ".gif", ".heic", ".jp2"))
"""Endings of pictures in formats that are not decoded."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The images of a folder or archive."""

    where: Path
    paths: list[str]
    """The images' paths, relative, with '/', sorted."""
    ignored: int
    """The number of other files."""
    undecoded: list[str]
    """The endings among them that say that a file is a picture."""
    read: Callable[[Container[int]], Iterator[tuple[int, Callable[[], bytes]]]]
    """A function that takes indices in `paths` and gives each image once, in the order of storage: its index, and a
    function that reads its bytes, in any thread."""


def open_source(path: Path) -> ImageSource:
    """List the images, by suffix, of a folder or a tar archive (compressed or not).

    Raises UsageError where there is neither, ImageSetError where it has no image or cannot be listed.
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
    except (RecursionError, OSError):  # the first of os.walk before Python 3.12, the other of a path that is too long
        raise ImageSetError(f"{folder}: folders lie too deep in one another; move the images up") from None

    def read(indices: Container[int]) -> Iterator[tuple[int, Callable[[], bytes]]]:
        for index, path in enumerate(paths):
            if index in indices:
                yield index, partial(read_file, folder / path)

    return ImageSource(folder, paths, ignored, undecoded, read)


def _files_below(folder: Path) -> Iterator[str]:
    for directory, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        at = Path(directory)
        folders[:] = [name for name in folders if not _leads_back(at / name)]
        inside = at.relative_to(folder).as_posix()
        yield from files if inside == "." else (f"{inside}/{name}" for name in files)


def _leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder on the way to it, which would be walked for ever."""
    return folder.is_symlink() and folder.resolve() in {step.resolve() for step in folder.parents}


def _unreadable(error: OSError) -> None:
    raise ImageSetError(f"{error.filename}: cannot be read ({words_of(error)}); make it readable or move it away")


def read_file(file: Path) -> bytes:
    """The bytes of an image file; ImageSetError where it cannot be read."""
    try:
        if not file.is_file():  # a broken link, or a pipe that would never end
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
        # In the archive's own order: going back in a compressed one means reading it again from the start.
        for archive, member in _members(tar):
            index = index_of.get(_member_name(tar, member))
            if index in indices and index is not None and (file := archive.extractfile(member)) is not None:
                with _tar_errors(tar):
                    data = file.read()
                yield index, partial(bytes, data)

    return ImageSource(tar, paths, ignored, undecoded, read)


def _members(tar: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """All members but folders, each with the open archive that its content can be read from. None goes to the disk."""
    last = -1
    with _tar_errors(tar), tarfile.open(tar) as archive:
        while member := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # they would pile up, a kilobyte each
            if member.offset <= last:
                raise tarfile.ReadError(f"member '{member.name}' lies before the one in front of it")
            last = member.offset
            if not member.isdir():
                yield archive, member


@contextmanager
def _tar_errors(tar: Path) -> Iterator[None]:
    try:
        yield
    # tarfile and four decompressors: a damaged archive fails in as many ways as there are parsers.
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        advice = "give a folder (unpack a ZIP), or make or download the archive again"
        raise ImageSetError(f"{tar}: not a whole tar archive ({reason}); {advice}") from error


def _member_name(tar: Path, member: tarfile.TarInfo) -> str:
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
    # Hidden files named like images are other programs' notes on them, and hidden folders hold their copies.
    is_hidden = any(part.startswith(".") and part != ".." for part in PurePosixPath(path).parts)
    return path.lower().endswith(SUFFIXES) and not is_hidden


def _sorted_images(source: Path, files: Iterator[str]) -> tuple[list[str], int, list[str]]:
    """The sorted paths of images, the number of other files, and their endings that are in UNDECODED."""
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
