"""Image sets, ONNX files and probes on the machine that needs them: where the driver has them, or fetched once.

What is fetched lies in `$BANDLENS_HOME/fetched` under its digest, gets its name when it is whole and verified, and is
fetched by one process while the others of the machine wait.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock, Timeout

from ...errors import BandlensError, EngineError, UsageError
from ...export.files import home, sha256_of
from ...partial_files import put_in_place
from ...probes.images.files import ABOUT, INDEX, PIXELS
from ...probes.images.image_set import ImageSet, check, open_image_set
from ...probes.images.options import Draw
from ...records import Variant
from ...user_source import UserSource, source_digest, source_files
from ..backends.base import onnx_file_of

PIECE = 2**25
"""Bytes that are sent at once."""
WAIT_SECONDS = 5.0
"""Between two signs of a process that waits for what another one of the machine fetches."""


class FileSource(Protocol):
    """The files of the driver, by digest."""

    def listing(self, digest: str) -> list[tuple[str, int]]:
        """Names, relative to the folder that will hold them, and lengths."""
        ...

    def read(self, digest: str, name: str, offset: int) -> bytes:
        """At most PIECE bytes."""
        ...


class PackedSet(NamedTuple):
    """Where the driver has a packed set."""

    folder: Path
    digest: str
    """Of what the folder holds."""
    draw: Draw | None
    """Which of its images are wanted."""


KeptFiles = Mapping[str, Path]
"""The files of a digest: the name of each in the folder that will hold them, and where the driver has it."""


class DriverFiles:
    """`FileSource` where the files are."""

    def __init__(self, kept: Mapping[str, KeptFiles]) -> None:
        self.kept = kept

    def listing(self, digest: str) -> list[tuple[str, int]]:
        return [(name, path.stat().st_size) for name, path in self.kept[digest].items()]

    def read(self, digest: str, name: str, offset: int) -> bytes:
        with self.kept[digest][name].open("rb") as file:
            file.seek(offset)
            return file.read(PIECE)


def kept_files(
    images: Sequence[ImageSet], variants: Sequence[Variant], probes: Sequence[UserSource]
) -> Mapping[str, KeptFiles]:
    """What the driver has to hand out: packed image sets, ONNX files, and the source of users' probes."""
    sets = {
        one.packed: {name: one.folder / name for name in (ABOUT, INDEX, PIXELS)} for one in images if not one.streamed
    }
    onnx_files = {one.sha256: {_name_of(one): one.path} for one in variants}
    sources = {
        source_digest(source): {path.relative_to(source.file.parent).as_posix(): path for path in source_files(source)}
        for source in probes
    }
    return sets | onnx_files | sources


MODEL = "model.onnx"
"""What an ONNX file is called in the folder of its digest: models of several names may have the same."""


def _name_of(variant: Variant) -> str:
    return variant.path.relative_to(onnx_file_of(variant).models).with_name(MODEL).as_posix()


@dataclass(frozen=True)
class NodeFiles:
    """Finds or fetches; without a source everything lies where the driver has it."""

    source: FileSource | None = None
    progress: Callable[[], None] = lambda: None
    """Called for each piece that is fetched, and now and then while another process fetches: that one is watched."""

    def images(self, wanted: PackedSet) -> ImageSet:
        """The image set; ImageSetError or EngineError where there is none to be had."""
        folder, digest, draw = wanted
        if self.source is None:
            return open_image_set(folder, draw)
        try:
            images = open_image_set(folder, draw)
            if images.packed == digest:
                return images
        except BandlensError:
            pass

        def verify(fetched: Path) -> bool:
            return check(fetched).info.digest == digest

        return open_image_set(self._fetched(digest, f"image set {folder}", verify), draw)

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

    def _fetched(self, digest: str, what: str, verify: Callable[[Path], bool]) -> Path:
        """The folder of what has this digest, fetched unless it is there."""
        into = home() / "fetched" / digest
        into.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(f"{into}.lock"):
            if not into.is_dir():
                draft = into.with_name(f".{digest}.partial")
                shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
                try:
                    _copy(self.source, digest, draft, what, self.progress)
                    if not verify(draft):
                        raise EngineError(
                            f"{what}: the driver's file is another than the one it names; make it again there"
                        )
                    put_in_place(draft, into)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
        return into

    def _locked(self, path: str) -> AbstractContextManager[Any]:
        while True:
            with suppress(Timeout):
                return FileLock(path).acquire(timeout=WAIT_SECONDS)
            self.progress()


def _has(source: UserSource, digest: str) -> bool:
    """Whether a probe's source is here, and has this digest."""
    try:
        return source.file.is_file() and source_digest(source) == digest
    except UsageError:  # what it uses is not here
        return False


def _copy(source: Any, digest: str, folder: Path, what: str, progress: Callable[[], None]) -> None:
    try:
        listing = source.listing(digest)
    except KeyError:
        raise EngineError(
            f"{what} is not on this machine and cannot be sent; put it on storage that all machines share"
        ) from None
    for name, length in listing:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while file.tell() < length:
                piece = source.read(digest, name, file.tell())
                if not piece:
                    raise EngineError(f"{what}: the driver's file became shorter; make it again there")
                file.write(piece)
                progress()
