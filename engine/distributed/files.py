"""Image sets, ONNX files and probes on the machine that needs them: at the driver's paths, or fetched once.

A fetched file lies in `$BANDLENS_HOME/fetched` under its digest, gets its name when it is whole and verified, and is
fetched by one process while the others of the machine wait.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock, Timeout

from ...core.errors import BandlensError, EngineError, UsageError, advice_on
from ...core.files import put_in_place
from ...core.records import Variant
from ...core.user_code import UserSource, source_digest, source_files
from ...export.files import home, sha256_of
from ...probes.images.files import ABOUT, INDEX, PIXELS
from ...probes.images.image_set import ImageSet, check_image_set, open_image_set
from ...probes.images.options import Draw
from ..backends.base import onnx_file_of

PIECE = 2**25
"""The number of bytes that are sent at once."""
WAIT_SECONDS = 5.0
"""Seconds between two signs of a process that waits while another one of the machine fetches."""


class FileSource(Protocol):
    """The files of the driver, by digest."""

    def listing(self, digest: str) -> list[tuple[str, int]]:
        """Names, relative to the folder that will hold them, and lengths."""
        ...

    def read(self, digest: str, name: str, offset: int) -> bytes:
        """At most PIECE bytes."""
        ...


class PackedSet(NamedTuple):
    """A packed set on the driver's disk."""

    folder: Path
    digest: str
    """The digest of all that the folder holds."""
    draw: Draw | Sequence[str] | None
    """The draw, or the paths, of the images that are run; None where all are."""
    numbers: tuple[int, ...] | None = None
    """The numbers of the packed classes, where they are not the packed ones: see `open_image_set`."""


KeptFiles = Mapping[str, Path]
"""The files of a digest: the name of each in the folder that will hold them, and its path on the driver."""


class DriverFiles:
    """`FileSource` on the driver itself."""

    def __init__(self, files: Mapping[str, KeptFiles]) -> None:
        self.files = files

    def listing(self, digest: str) -> list[tuple[str, int]]:
        return [(name, path.stat().st_size) for name, path in self.files[digest].items()]

    def read(self, digest: str, name: str, offset: int) -> bytes:
        with self.files[digest][name].open("rb") as file:
            file.seek(offset)
            return file.read(PIECE)


def kept_files(
    images: Sequence[ImageSet], variants: Sequence[Variant], probes: Sequence[UserSource]
) -> Mapping[str, KeptFiles]:
    """The files that the driver hands out: packed image sets, ONNX files, and the source of users' probes.

    Their paths are absolute, since the process that hands them out has another current folder.
    """
    sets = {
        image_set.packed: {name: image_set.folder.absolute() / name for name in (ABOUT, INDEX, PIXELS)}
        for image_set in images
        if not image_set.streamed
    }
    onnx_files = {variant.sha256: {_name_of(variant): variant.path.absolute()} for variant in variants}
    sources = {
        source_digest(source): {path.relative_to(source.file.parent).as_posix(): path for path in source_files(source)}
        for source in probes
    }
    return sets | onnx_files | sources


MODEL = "model.onnx"
"""The name of an ONNX file in the folder of its digest: models of several names may have the same file."""


def _name_of(variant: Variant) -> str:
    return variant.path.relative_to(onnx_file_of(variant).models).with_name(MODEL).as_posix()


@dataclass(frozen=True)
class NodeFiles:
    """Finds files on this machine or fetches them; without a source all lie at the driver's paths."""

    source: FileSource | None = None
    progress: Callable[[], None] = lambda: None
    """A function that is called for each piece that is fetched, and now and then while another process fetches."""

    def images(self, packed: PackedSet) -> ImageSet:
        """The image set; ImageSetError or EngineError where there is none to be had."""
        folder, digest, draw, numbers = packed
        if self.source is None:
            return open_image_set(folder, draw, numbers)
        try:
            images = open_image_set(folder, draw, numbers)
            if images.packed == digest:
                return images
        except BandlensError:
            pass

        def verify(fetched: Path) -> bool:
            return check_image_set(fetched).info.digest == digest

        return open_image_set(self._fetched(digest, f"image set {folder}", verify), draw, numbers)

    def variant(self, variant: Variant) -> Variant:
        """The variant with the path of its file here."""
        if self.source is None or (variant.path.is_file() and sha256_of(variant.path) == variant.sha256):
            return variant
        name = _name_of(variant)
        folder = self._fetched(
            variant.sha256, str(variant), lambda fetched: sha256_of(fetched / name) == variant.sha256
        )
        model = replace(variant.model, path=folder / MODEL)
        return replace(variant, model=model, path=folder / name)

    def probe(self, source: UserSource, digest: str) -> Path:
        """The file of a user's probe whose source has that digest."""
        if self.source is None or _has(source, digest):
            return source.file
        name = source.file.name
        folder = self._fetched(
            digest, f"probe {source.file}", lambda fetched: _has(source._replace(file=fetched / name), digest)
        )
        return folder / name

    def _fetched(self, digest: str, title: str, verify: Callable[[Path], bool]) -> Path:
        """The folder of the files with this digest, fetched unless it is there."""
        into = home() / "fetched" / digest
        into.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(f"{into}.lock"):
            if not into.is_dir():
                draft = into.with_name(f".{digest}.partial")
                shutil.rmtree(draft, ignore_errors=True)  # a process that was killed left it
                try:
                    _copy(self.source, digest, draft, title, self.progress)
                    if not verify(draft):
                        raise EngineError(
                            f"{title}: the driver's file is another than the one it names; make it again there"
                        )
                    put_in_place(draft, into)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
        return into

    def _locked(self, path: str) -> AbstractContextManager[Any]:
        while True:
            try:
                return FileLock(path).acquire(timeout=WAIT_SECONDS)
            except Timeout:  # a worker that waited in silence would be taken for one that hangs
                self.progress()
            except OSError as error:
                advice = advice_on(error, "make its folder writable")
                raise EngineError(
                    f"cannot lock {path}: {error.strerror}; {advice}, or set BANDLENS_HOME to another folder"
                ) from error


def _has(source: UserSource, digest: str) -> bool:
    """Whether a probe's source is here, and has this digest."""
    try:
        return source.file.is_file() and source_digest(source) == digest
    except UsageError:  # a module that it uses is not here
        return False


def _copy(source: Any, digest: str, folder: Path, title: str, progress: Callable[[], None]) -> None:
    try:
        listing = source.listing(digest)
    except KeyError:
        raise EngineError(
            f"{title} is not on this machine and cannot be sent; put it on storage that all machines share"
        ) from None
    for name, length in listing:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while file.tell() < length:
                piece = source.read(digest, name, file.tell())
                if not piece:
                    raise EngineError(f"{title}: the driver's file became shorter; make it again there")
                file.write(piece)
                progress()
