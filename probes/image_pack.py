"""From images that were chosen to the files of a set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageSetError, UsageError
from ..records import ImageSetInfo
from .decode import Frame, framed
from .image_files import PIXELS, Index, Lists, finish_pixels, write_about, write_index
from .image_folder import need_space, new_folder, refuse_taken, writing
from .image_rows import Progress, hash_rows, nowhere, rows_of, silent
from .image_set import ImageSet, digest, open_image_set
from .image_stream import described

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .image_sources import Source
    from .labels import Clustering

Say = Callable[[str], object]
_USUAL = {"decision_space": "all", "corruption": None, "severity": None}
"""What set.json does not mention."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Images of a source that make up a set, in its order."""

    rows: Sequence[int]
    """Their indices among the source's paths."""
    labels: NDArray[np.int32] | None
    """(n,) class indices."""
    schemes: Mapping[str, Lists] = field(default_factory=dict)
    """By name, the classes that count as right for each of the n images."""


@dataclass(frozen=True, slots=True)
class How:
    """How packing goes about it; none of it matters to what the set holds."""

    skip_broken: bool = False
    """Leave broken files out instead of stopping at the first."""
    stream: bool = False
    """Write no pixels: they are decoded from the source again whenever they are asked for."""
    workers: int | None = None
    """Threads; one a processor by default."""
    progress: Progress = silent
    say: Say = lambda _text: None
    """Told of the room that is needed, before anything is decoded."""


USUAL = How()


def refuse_early(where: Path, out: Path, how: How) -> None:
    """UsageError for what is known before images are listed, which takes long in an archive."""
    if how.stream and where.is_file():
        raise UsageError(f"{where}: an archive cannot be streamed; extract it, and give the folder")
    refuse_taken(out)


def write_set(
    source: Source,
    choice: Choice,
    out: Path,
    frame: Frame,
    info: ImageSetInfo,
    clusters: Clustering,
    how: How,
) -> ImageSet:
    """Decode the chosen images of `source` into the new image set `out`.

    `info` lacks the digest and the count, which are found here. After an error there is no `out`.
    """
    with new_folder(out) as folder:
        need_space(out, len(choice.rows), 0 if how.stream else frame.size)
        place = {row: at for at, row in enumerate(choice.rows)}
        photographs = (
            (place[row], source.paths[row], partial(_framed, read, frame)) for row, read in source.read(place)
        )
        file = folder / PIXELS
        keeping = nowhere() if how.stream else rows_of(file)
        with keeping as keep, how.progress(f"packing {info.name}", len(place), "images") as advance:
            sha256s, skipped = hash_rows(
                photographs, keep, source.where, workers=how.workers, advance=advance, skip_broken=how.skip_broken
            )
        if len(sha256s) + len(skipped) < len(place):
            raise ImageSetError(f"{source.where}: lost images while it was packed; pack it again")
        index = _index(source, choice, clusters, sha256s)
        streamed = {"streamed": described(source.where, frame)} if how.stream else {}
        with writing(out):
            if not how.stream:
                finish_pixels(file, frame.size, sorted(sha256s))
            describe(folder, index, info, skipped=dict(sorted(skipped.items())), ignored=source.ignored, **streamed)
    return open_image_set(out)


def _framed(read: Callable[[], bytes], frame: Frame) -> NDArray[np.uint8]:
    return framed(read(), frame)


def _index(
    source: Source,
    choice: Choice,
    clusters: Clustering,
    sha256s: Mapping[int, str],
) -> Index:
    """Of those images that were not broken."""
    kept = sorted(sha256s)
    paths = [source.paths[choice.rows[at]] for at in kept]
    labels = None if choice.labels is None else choice.labels[kept]
    schemes = {name: [lists[at] for at in kept] for name, lists in choice.schemes.items()}
    return Index(paths, labels, clusters(paths), [sha256s[at] for at in kept], schemes)


def describe(folder: Path, index: Index, info: ImageSetInfo, **more: Any) -> None:
    """Write index.parquet and set.json; `info` lacks the digest and the count."""
    from PIL import __version__ as pillow

    if not index.paths:
        raise ImageSetError(f"{info.name}: no image is left to pack; {len(more['skipped'])} are broken")
    write_index(folder, index)
    found = digest(index, info.size, info.preprocessing, info.decision_space)
    whole = replace(info, digest=found, count=len(index.paths), labelled=index.labels is not None)
    about = {name: value for name, value in asdict(whole).items() if (name, value) not in _USUAL.items()}
    schemes = {"schemes": sorted(index.schemes)} if index.schemes else {}
    write_about(folder, about | schemes | more | {"pillow": pillow})
