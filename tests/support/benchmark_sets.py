"""Miniature benchmarks: the layout of every one, with a few small pictures of a few classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from bandlens.core.protocol import STIMULI, VALIDATION, Benchmark
from bandlens.core.records import Crop
from bandlens.probes.benchmarks.layouts import Labels, find_benchmark
from bandlens.probes.benchmarks.sets import Subset, pack_benchmark
from bandlens.probes.images.decision_spaces import decision_space, imagenet_classes
from bandlens.probes.images.image_set import ImageSet
from bandlens.probes.images.pack_options import USUAL, How

WNIDS = list(imagenet_classes())
PARTIAL = Subset(partial=True)


@dataclass(frozen=True)
class Miniature:
    """A benchmark on disk, and how it is packed."""

    benchmark: Benchmark
    source: Path
    size: int
    labels: dict[str, int]
    """Path below `source` -> class id in the benchmark's decision space."""
    schemes: dict[str, dict[str, list[int]]]
    """Labels by scheme: path below `source` -> classes that count as right."""
    files: Labels = field(default_factory=Labels)

    @property
    def words(self) -> list[str]:
        """The arguments of `bandlens benchmarks pack` before --out."""
        words = [self.benchmark.name, str(self.source), "--partial", "--size", str(self.size)]
        words += [] if self.benchmark.fixed else ["--resize", str(self.size)]
        return words + (["--real", str(self.files.real)] if self.files.real else [])

    def pack(self, out: Path, subset: Subset = PARTIAL, how: How = USUAL) -> list[ImageSet]:
        """Pack it in this process at its own size."""
        crop = Crop(self.size, self.size)
        return pack_benchmark(self.benchmark, self.source, out, crop=crop, labels=self.files, subset=subset, how=how)


def make_benchmark(
    name: str,
    folder: Path,
    *,
    classes: Sequence[int] | None = None,
    per_class: int = 2,
    size: int = 224,
    corruptions: Subset | None = None,
) -> Miniature:
    """Write the benchmark `name` into the new folder `folder`.

    Args:
        name: as `benchmarks list` shows it.
        folder: where its images go; `real.json` goes beside it.
        classes: ids in the benchmark's decision space; the first three by default.
        per_class: images of each class. Those of cue-conflict have the textures that follow their shapes.
        size: of the images; those that the benchmark resizes are a little larger.
        corruptions: those of a benchmark of corruptions; its first two at severities 1 and 5 by default.
    """
    benchmark = find_benchmark(name)
    ids = list(classes if classes is not None else decision_space(benchmark.decision_space).ids[:3])
    paths = dict(_paths(benchmark, ids, per_class))
    subset = corruptions or Subset(corruptions=benchmark.corruptions[:2], severities=(1, 5))
    places = [f"{name}/{severity}/" for name in subset.corruptions for severity in subset.severities] or [""]
    labels = {}
    for number, (place, (path, label)) in enumerate((place, item) for place in places for item in paths.items()):
        _picture(
            folder / place / path,
            size if benchmark.fixed else size + 16,
            seed=[crc32(name.encode()), number],
            label=label,
        )
        labels[place + path] = label
    schemes: dict[str, dict[str, list[int]]] = {}
    if benchmark.scheme == "texture":
        schemes["texture"] = {path: [_texture(path)] for path in paths}
    if benchmark.scheme == "real":
        schemes["real"] = {path: _real(at, label) for at, (path, label) in enumerate(paths.items())}
        real = write_real(folder.with_name("real.json"), schemes["real"])
        return Miniature(benchmark, folder, size, labels, schemes, Labels(real=real))
    return Miniature(benchmark, folder, size, labels, schemes)


def write_real(file: Path, lists: dict[str, list[int]]) -> Path:
    """ReaL's real.json, in which all other images have empty lists."""
    entries: list[list[int]] = [[] for _ in range(VALIDATION)]
    for path, classes in lists.items():
        entries[number_of(path) - 1] = classes
    file.write_text(json.dumps(entries))
    return file


def number_of(path: str) -> int:
    """1 for a path such as ILSVRC2012_val_00000001.JPEG."""
    return int(Path(path).stem[-8:])


def _texture(path: str) -> int:
    """The number of the class `bear` for a path such as airplane/airplane1-bear2.png."""
    return decision_space("sixteen").names.index(path.split("-")[1].removesuffix(".png").rstrip("0123456789"))


def _real(at: int, label: int) -> list[int]:
    """The label, or another class too, or another class alone, or nothing, in turn."""
    next_label = (label + 1) % 1000
    return [[label], [label, next_label], [next_label], []][at % 4]


def _paths(benchmark: Benchmark, ids: Sequence[int], per_class: int) -> Iterator[tuple[str, int]]:
    """Each image's path, and its class."""
    pattern = PATTERNS.get(benchmark.name, "{wnid}/ILSVRC2012_val_{id:08d}.JPEG")
    categories = decision_space("sixteen").names
    for number, (label, k) in enumerate(product(ids, range(per_class))):
        words = {"label": label, "wnid": WNIDS[label], "number": number, "k": k + 1, "half": k % 2}
        # Numbers of validation images do not go with classes, as in the data set.
        words |= {"shape": categories[label % 16], "texture": categories[(label + k) % 16]}
        yield pattern.format(**words, id=1 + number * 7919 % VALIDATION), label


PATTERNS = {
    "imagenet-v2": "{label}/{number:040x}.jpeg",
    **dict.fromkeys(("imagenet-a", "imagenet-r", "imagenet-sketch"), "{wnid}/{number:06d}_picture.jpg"),
    **dict.fromkeys(STIMULI, "dnn/session-1/{number:04d}_set_dnn_{half}_{shape}_10_{wnid}_{number}.png"),
    **dict.fromkeys(("edge", "silhouette"), "{shape}/{shape}{k}.png"),
    "cue-conflict": "{shape}/{shape}{k}-{texture}{k}.png",
}
"""Benchmark -> its file names, where they differ from those of the validation set.

A stimulus has its name of experiments: number, set, observer, condition, class, images of each, photograph.
"""


def _picture(file: Path, side: int, seed: Sequence[int], label: int) -> None:
    """Blocks whose colours depend on the class, with others on top that do not."""
    colours, noise = np.random.default_rng(label), np.random.default_rng(seed)
    blocks = colours.integers(40, 216, (4, 4, 3)) + noise.integers(-30, 31, (4, 4, 3))
    picture = Image.fromarray(blocks.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
