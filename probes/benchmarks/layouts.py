"""Find the classes of benchmark images, either from their paths or from a list of labels."""

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
"""File name of an image of the ImageNet validation set. It contains its number, 1 to 50,000."""
_OUTLINE = re.compile(r"([a-z]+)\d+\.png")
_CUE_CONFLICT = re.compile(r"([a-z]+)\d+-([a-z]+)\d+\.png")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the path of an image specifies its class."""

    words: str
    """Description of the layout, for error messages."""
    class_of: Callable[[str], str]
    """Return the class name in a path, or "" if the path does not have this layout."""
    classes: Callable[[DecisionSpace], Mapping[str, int]]
    """Return class name as it occurs in paths -> class index."""


def _parent(path: str) -> str:
    return PurePosixPath(path).parent.name


def _shape(path: str) -> str:
    cues = _CUE_CONFLICT.fullmatch(PurePosixPath(path).name)
    fits = cues is not None and cues[1] == _parent(path) and cues[2] in decision_space("sixteen").names
    return cues[1] if cues and fits else ""


def texture_of(path: str) -> str:
    """Return the texture class of a cue-conflict image."""
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
"""Layout of each benchmark by name."""


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark with the given name. Raises UnknownName if there is none."""
    if name not in BENCHMARKS:
        raise UnknownName("benchmark", name, BENCHMARKS, "see `bandlens benchmarks list`")
    return BENCHMARKS[name]


def classes_of(benchmark: Benchmark, layout: Layout) -> Mapping[str, int]:
    """Return class name as it occurs in paths -> class index, for the classes of a benchmark."""
    return layout.classes(decision_space(benchmark.decision_space))


# Files with labels of ImageNet validation images: lists of the ground truth, and ReaL labels.

Truth = dict[int, int]
"""File number of each validation image -> class index."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Files with labels that are not part of the paths of a benchmark's images."""

    ground_truth: Path | None = None
    """List of labels for ImageNet images that are not in class folders; see `read_truth`."""
    real: Path | None = None
    """File real.json with the ReaL labels."""


IN_PATHS = Labels()
"""No files: all labels are part of the paths."""


def file_number(path: str) -> int | None:
    """Return the number in a file name such as ILSVRC2012_val_00000001.JPEG, or None for other names."""
    name = NUMBERED.fullmatch(PurePosixPath(path).name)
    return int(name[1]) if name else None


def read_truth(file: Path) -> Truth:
    """Read the classes of ImageNet validation images from any of the common list formats.

    - One line per image with its file name and its class, a class index from 0 to 999 or a WordNet ID. They are
      separated by spaces or a comma. A header and further fields are ignored.
    - 50,000 lines in the order of file numbers, each with a WordNet ID.
    - 50,000 lines in the order of file numbers, each with an ILSVRC2012 ID from 1 to 1000. This is
      ILSVRC2012_validation_ground_truth.txt of the development kit. It needs the file meta.mat of the kit in the same
      folder.

    Returns:
        File number -> class index.

    Raises:
        UsageError: The file cannot be read.
        ImageSetError: A line has none of these formats. The message contains its number.
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
    """Return the layout of images whose classes are listed by file number; see `read_truth`."""
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
    """Return the file number in the first field of a line. The extension may be missing."""
    name = fields[0] if PurePosixPath(fields[0]).suffix else f"{fields[0]}.JPEG"
    return file_number(name)


def _named(file: Path, lines: Sequence[Sequence[str]], first: int) -> Truth:
    """Read lines with file names and classes."""
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
    """Return a function that converts ILSVRC2012 IDs to class indices, using meta.mat of the development kit."""
    meta = file.with_name("meta.mat")
    if not meta.is_file():
        raise UsageError(
            f"{file}: lists ILSVRC2012 ids, which only the development kit's meta.mat explains; put it beside the list"
        )
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {str(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if not int(row["num_children"])}
    except Exception as error:  # SciPy raises many different exceptions for damaged files
        raise ImageSetError(f"{meta}: not the meta.mat of the ILSVRC2012 development kit; download it again") from error

    def class_of(where: Path, line: int, text: str) -> int:
        if text not in wnids:
            raise ImageSetError(f"{where}, line {line}: '{text}' is no ILSVRC2012 id of {meta.name}")
        return _wnid(meta, int(text), wnids[text])

    return class_of


def read_real(file: Path) -> list[tuple[int, ...]]:
    """Read the ReaL labels from real.json: for each validation image, by file number, the classes that count as
    correct.

    Raises:
        UsageError: The file cannot be read.
        ImageSetError: It is not a list of 50,000 lists of classes.
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
