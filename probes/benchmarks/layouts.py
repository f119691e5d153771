"""The classes of the benchmarks' images: by the part of a path that names one, or by a list of labels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...core.errors import ImageSetError, UnknownName, UsageError
from ...core.protocol import BENCHMARKS, CLASSES, STIMULI, VALIDATION, Benchmark
from ...core.untrusted import read_text, words_of
from ..images.decision_spaces import DecisionSpace, decision_space, imagenet_classes, names_of, wnids_of

NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
"""An image of ImageNet's validation set, by its file number, 1 to 50,000."""
_OUTLINE = re.compile(r"([a-z]+)\d+\.png")
_CUE_CONFLICT = re.compile(r"([a-z]+)\d+-([a-z]+)\d+\.png")


@dataclass(frozen=True, slots=True)
class Layout:
    """The part of a path that names the class of its image."""

    words: str
    class_of: Callable[[str], str]
    """A function that takes a path and gives the name of its class, or "" where the path is not of this layout."""
    classes: Callable[[DecisionSpace], Mapping[str, int]]
    """The names that classes have in paths, and their numbers."""


def _parent(path: str) -> str:
    return PurePosixPath(path).parent.name


def _shape(path: str) -> str:
    cues = _CUE_CONFLICT.fullmatch(PurePosixPath(path).name)
    fits = cues is not None and cues[1] == _parent(path) and cues[2] in decision_space("sixteen").names
    return cues[1] if cues and fits else ""


def texture_of(path: str) -> str:
    """The name of the class whose texture a cue-conflict image has."""
    cues = _CUE_CONFLICT.fullmatch(PurePosixPath(path).name)
    return cues[2] if cues else ""


def _fifth_field(path: str) -> str:
    fields = PurePosixPath(path).stem.split("_")
    return fields[4] if len(fields) > 4 else ""


def _outlined(path: str) -> str:
    name = _OUTLINE.fullmatch(PurePosixPath(path).name)
    return name[1] if name and name[1] == _parent(path) else ""


def _numbers(space: DecisionSpace) -> Mapping[str, int]:
    return {str(index): index for index in space.ids}


WNID = Layout("images lie in folders named by WordNet ids, such as n01440764", _parent, wnids_of)
NUMBER = Layout("images lie in folders named 0 to 999, without leading zeros", _parent, _numbers)
SHAPE = Layout("images are <shape>/<shape>N-<texture>M.png of the 16 classes", _shape, names_of)
OUTLINE = Layout("images are <class>/<class>N.png of the 16 classes", _outlined, names_of)
FIELD = Layout("images name one of the 16 classes in the fifth field between '_'", _fifth_field, names_of)

LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(BENCHMARKS, WNID),
    **dict.fromkeys(STIMULI, FIELD),
    **dict.fromkeys(("edge", "silhouette"), OUTLINE),
    "imagenet-v2": NUMBER,
    "cue-conflict": SHAPE,
}
"""The layout of each benchmark, by its name."""


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; UnknownName where there is none."""
    if name not in BENCHMARKS:
        raise UnknownName("benchmark", name, BENCHMARKS, "see `bandlens benchmarks list`")
    return BENCHMARKS[name]


def classes_of(benchmark: Benchmark, layout: Layout) -> Mapping[str, int]:
    """The names that the benchmark's classes have in paths, and their numbers."""
    return layout.classes(decision_space(benchmark.decision_space))


# Labels of validation images from files: the ground truth, and ReaL's lists

Truth = dict[int, int]
"""The class index of each validation image, by file number."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a benchmark's images that its folders do not name."""

    ground_truth: Path | None = None
    """A list for images of ImageNet that lie in no class folders: see `read_truth`."""
    real: Path | None = None
    """ReaL's real.json."""


IN_PATHS = Labels()


def file_number(path: str) -> int | None:
    """The number in ILSVRC2012_val_00000001.JPEG, or None for another name."""
    name = NUMBERED.fullmatch(PurePosixPath(path).name)
    return int(name[1]) if name else None


def read_truth(file: Path) -> Truth:
    """The classes of validation images by their file number, from any of the lists that are in use.

    - a line an image: the file's name and its class, as an index from 0 to 999 or a WordNet id; with a space or a comma
      between them, with or without a header, and whatever follows on the line does not matter;
    - 50,000 lines in the order of file numbers, a WordNet id each;
    - 50,000 lines in that order, an ILSVRC2012 id from 1 to 1000 each: the development kit's
      ILSVRC2012_validation_ground_truth.txt, which needs the kit's meta.mat beside it.

    Raises UsageError where the file cannot be read, ImageSetError naming the line that is none of these.
    """
    lines = [re.split(r"[\s,]+", line.strip()) for line in _text(file).splitlines() if line.strip()]
    header = len(lines) > 1 and _number(lines[0]) is None and _number(lines[1]) is not None
    if header or (lines and _number(lines[0]) is not None):
        return _named(file, lines[header:], 1 + header)
    if len(lines) != VALIDATION:
        raise ImageSetError(
            f"{file}: {len(lines)} lines without file names, and not one for each of {VALIDATION} images; "
            "give the whole list, or one that names the files"
        )
    class_of = _wnid if lines[0][0].startswith("n") else _ilsvrc_ids(file)
    return {number: class_of(file, number, line[0]) for number, line in enumerate(lines, start=1)}


def listed(file: Path) -> Layout:
    """The layout of images whose classes `file` lists by file number: see `read_truth`."""
    truth, wnids = read_truth(file), list(imagenet_classes())

    def class_of(path: str) -> str:
        number = file_number(path)
        return wnids[truth[number]] if number in truth else ""

    return Layout(f"images are named ILSVRC2012_val_00000001.JPEG, and {file} lists them", class_of, wnids_of)


def _text(file: Path) -> str:
    try:
        return read_text(file, pipe=True)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({words_of(error)}); give the file that lists the labels") from error
    except ValueError as error:
        raise ImageSetError(f"{file}: not a text file ({error}); give the file that lists the labels") from error


def _number(fields: Sequence[str]) -> int | None:
    name = fields[0] if PurePosixPath(fields[0]).suffix else f"{fields[0]}.JPEG"
    return file_number(name)


def _named(file: Path, lines: Sequence[Sequence[str]], first: int) -> Truth:
    truth: Truth = {}
    for at, fields in enumerate(lines, start=first):
        number = _number(fields)
        if number is None or len(fields) < 2:
            raise ImageSetError(f"{file}: '{' '.join(fields)}' is no file name and class; mend line {at}")
        if number in truth:
            raise ImageSetError(f"{file}: '{fields[0]}' is listed twice; keep one of the lines")
        truth[number] = (_wnid if fields[1].startswith("n") else _index)(file, at, fields[1])
    return truth


def _wnid(file: Path, line: int, text: str) -> int:
    if text not in imagenet_classes():
        raise ImageSetError(f"{file}, line {line}: '{text}' is none of ImageNet's 1000 WordNet ids")
    return imagenet_classes()[text]


def _index(file: Path, line: int, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < CLASSES):
        raise ImageSetError(
            f"{file}, line {line}: '{text}' is no class index from 0 to 999; lists that count from 1, or have a "
            "background class, are not of this order"
        )
    return int(text)


def _ilsvrc_ids(file: Path) -> Callable[[Path, int, str], int]:
    """The function that reads an ILSVRC2012 id, by the meta.mat of the development kit."""
    meta = file.with_name("meta.mat")
    if not meta.is_file():
        raise UsageError(
            f"{file}: lists ILSVRC2012 ids, which only the development kit's meta.mat explains; put it beside the list"
        )
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {str(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if not int(row["num_children"])}
    except Exception as error:  # a damaged file fails in as many ways as the format has parts
        raise ImageSetError(f"{meta}: not the meta.mat of the ILSVRC2012 development kit; download it again") from error

    def class_of(where: Path, line: int, text: str) -> int:
        if text not in wnids:
            raise ImageSetError(f"{where}, line {line}: '{text}' is no ILSVRC2012 id of {meta.name}")
        return _wnid(meta, int(text), wnids[text])

    return class_of


def read_real(file: Path) -> list[tuple[int, ...]]:
    """ReaL's real.json: for each validation image, by file number, the classes that count as right.

    Raises UsageError where it cannot be read, ImageSetError where it is not such a list of 50,000.
    """
    try:
        lists = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise ImageSetError(f"{file}: not JSON ({error}); download real.json again") from error
    if not isinstance(lists, list) or len(lists) != VALIDATION:
        kind = f"{len(lists)} entries" if isinstance(lists, list) else f"a JSON {type(lists).__name__}"
        raise ImageSetError(
            f"{file}: {kind}, not labels for each of the {VALIDATION} validation images; download real.json again"
        )
    for entry, classes in enumerate(lists, start=1):
        if not isinstance(classes, list) or not all(
            type(number) is int and 0 <= number < CLASSES for number in classes
        ):
            raise ImageSetError(f"{file}: entry {entry} is no list of classes from 0 to 999; download real.json again")
    return [tuple(classes) for classes in lists]
