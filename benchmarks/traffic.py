"""The time of the perturbations of a batch of 256 on an H100, reckoned from memory traffic and products.

The package's own code runs, on an array module that computes with NumPy and counts what CuPy would start. Every
operation on arrays is a launch that reads its operands and writes its result, since CuPy fuses none. A product copies
an operand that is not contiguous beforehand, and one of a single matrix with many lists their addresses in kernels of
their own. A kernel of kernels.cu reads or writes each of its arrays once; it is not run, nor is its arithmetic counted.

Launches of two and of three images are extended to the batch. A launch takes as long as its bytes or as its operations
take, whichever is longer, and a gap; nothing is taken to stay in the card's cache. The rates are assumed: those of the
data sheet, times a share that such work may reach. Nobody has measured them here, and no figure is better than these.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import _checkout  # noqa: F401 - before anything of bandlens
import numpy as np
from _common import SIZE
from numpy.typing import NDArray

from bandlens.core.records import Condition
from bandlens.probes import kernels
from bandlens.probes.family import Batch, Perturb
from bandlens.probes.grid import PUBLISHED, make_grid

BATCH = 256
BANDWIDTH = 0.8 * 3.35e12
"""Bytes a second: NVIDIA's 3.35 TB/s for an H100 SXM, of which passes over arrays are taken to reach 80 %."""
PRODUCTS = 0.5 * 67e12
"""Operations a second: NVIDIA's 67 TFLOP/s in float32, without tensor cores; thin products are taken to reach half."""
GAP = 3e-6
"""Seconds from the end of a kernel to the next one's work."""


NETWORKS, CELLS = 48, 48 * 29
"""Networks of a run, and cells of a flush, about once a minute."""
NETWORK = 1e3 * BATCH / 39_400
"""Milliseconds of a network in fp16, as docs/guide/gpu.md predicts it."""
COPY = 20e-6
"""Seconds that the host waits for a small copy from the card: assumed."""


class Launch(NamedTuple):
    what: str
    bytes: float
    operations: float
    shared: bool
    """Whether it came while no condition had a buffer, and so serves several of them."""

    @property
    def ms(self) -> float:
        return 1e3 * (max(self.bytes / BANDWIDTH, self.operations / PRODUCTS) + GAP)


class Ledger:
    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.filling = 0
        """Buffers that were requested and whose condition has not come."""

    def add(self, what: str, *touched: Any, operations: float = 0) -> None:
        moved = sum(bytes_of(array) for array in touched if isinstance(array, np.ndarray))
        self.launches.append(Launch(what, moved, operations, shared=not self.filling))


LEDGER = Ledger()


def bytes_of(array: NDArray[Any]) -> int:
    """The bytes that lie in memory: an axis along which an array is only repeated counts once."""
    return array.itemsize * int(np.prod([n for n, step in zip(array.shape, array.strides, strict=True) if step]))


class CountedArray(np.ndarray):
    """An array of NumPy that counts what CuPy would do. Views cost nothing."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (None,), **options: Any) -> Any:
        (target,) = out
        operands = [plain(array) for array in inputs]
        made = getattr(ufunc, method)(*operands, **options, **({} if target is None else {"out": plain(target)}))
        if ufunc is np.matmul:
            count_product(*operands, made)
        else:
            for array, operand in zip(inputs, operands, strict=True):
                if target is not None and array is not target and np.may_share_memory(operand, made):
                    LEDGER.add("copy", operand, operand)
            LEDGER.add(ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}", *operands, made)
        return made.view(CountedArray) if target is None else target

    def __array_function__(self, function: Any, _: Any, arguments: Any, options: Any) -> Any:
        made = function(*map(plain, arguments), **options)
        for _ in range(2 if "fft" in function.__name__ else 1):  # cuFFT goes along one axis after the other
            LEDGER.add(function.__name__, *map(plain, arguments), made)
        return made.view(CountedArray)

    def __setitem__(self, key: Any, value: Any) -> None:
        place, value = plain(self)[key], plain(value)
        if isinstance(value, np.ndarray) and value.__array_interface__ == place.__array_interface__:
            return  # this ends `array[key] *= 2`, where CuPy sees that nothing is left to do
        LEDGER.add("assign", value, place)
        place[...] = value

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Any:
        made = plain(self).astype(dtype)
        LEDGER.add("astype", plain(self), made)
        return made.view(CountedArray)

    def copy(self, *_: Any, **__: Any) -> Any:
        return self.astype(self.dtype)

    def reshape(self, *shape: Any, **_: Any) -> Any:
        made = plain(self).reshape(*shape)
        if not np.may_share_memory(made, plain(self)):
            LEDGER.add("copy", made, made)
        return made.view(CountedArray)


def plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, CountedArray) else value


def count_product(a: NDArray[Any], b: NDArray[Any], made: NDArray[Any]) -> None:
    """Count a product as CuPy 14 does it: cuBLAS gets a matrix as it lies or transposed, and many only as they lie."""
    many = made.ndim > 2
    for operand in (a, b):
        if not (operand.flags.c_contiguous or (operand.flags.f_contiguous and not many)):
            LEDGER.add("copy for a product", operand, operand)
    if a.shape[:-2] != b.shape[:-2]:
        for _ in range(3 * (made.ndim - 2)):
            LEDGER.add("addresses for a product")
    LEDGER.add("product", a, b, made, operations=2 * made.size * a.shape[-1])
    if not made.flags.c_contiguous:
        LEDGER.add("copy of a product", made, made)


class CountingModule(ModuleType):
    """NumPy, whose arrays count."""

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(np, name)
        if isinstance(attribute, (type, np.ufunc, ModuleType)) or not callable(attribute):
            return attribute

        def function(*arguments: Any, **options: Any) -> Any:
            made = attribute(*arguments, **options)
            return made.view(CountedArray) if type(made) is np.ndarray else made

        return function


def counted(xp: ModuleType, perturb: Perturb, conditions: Sequence[Condition], count: int) -> list[Launch]:
    """The launches of a group of conditions for so many images, once its constants are on the card."""
    pixels, keys = np.zeros((count, 3, SIZE, SIZE), np.uint8), np.arange(count, dtype=np.uint64)
    batch = Batch(pixels.view(CountedArray), keys.view(CountedArray), np.arange(count), 0)

    def buffer() -> Any:
        LEDGER.filling += 1
        return xp.empty(pixels.shape, np.float32)

    for _ in range(2):
        LEDGER.launches.clear()
        with np.errstate(all="ignore"):  # arrays that kernels would fill are empty
            for _ in perturb(xp, batch, conditions, buffer):
                LEDGER.filling -= 1
    return LEDGER.launches.copy()


def reckoned(xp: ModuleType, perturb: Perturb, conditions: Sequence[Condition]) -> list[Launch]:
    """The launches of a group of conditions for a batch."""
    launches_of_2, launches_of_3 = (counted(xp, perturb, conditions, count) for count in (2, 3))
    return [
        launch._replace(
            bytes=launch.bytes + (BATCH - 2) * (larger.bytes - launch.bytes),
            operations=launch.operations + (BATCH - 2) * (larger.operations - launch.operations),
        )
        for launch, larger in zip(launches_of_2, launches_of_3, strict=True)
    ]


def ms(launches: Sequence[Launch]) -> float:
    return sum(launch.ms for launch in launches)


def shared_work() -> list[list[str]]:
    """The work that networks may share: ms apart and together, and how much sooner a run of NETWORKS ends with it.

    An engine reads the float32 images, and writes normalized halves of eight channels, which its convolutions take. It
    gains nothing where the engine's first convolution reads float32 itself, and loses what the eight channels are more.
    """
    pixels = BATCH * SIZE**2
    normalized = 1e3 * ((3 * 4 + 8 * 2) * pixels / BANDWIDTH + GAP)
    fetched = 1e3 * 3 * (COPY + 2 * GAP)
    rows = (
        ("normalization and cast of a batch", NETWORKS * normalized, normalized, NETWORKS * NETWORK),
        ("columns fetched in a minute", CELLS * fetched, fetched, 60e3),
    )
    return [
        [what, f"{apart:.1f}", f"{together:.1f}", f"{100 * (apart - together) / whole:.1f} %"]
        for what, apart, together, whole in rows
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, as docs/guide/gpu.md has it."""
    print(f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows), sep="\n")
    print()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    kernels.cuda_function = lambda _, name: lambda __, ___, arguments: LEDGER.add(name, *map(plain, arguments))
    xp, grid, rows, parts = CountingModule("counting"), make_grid({**PUBLISHED, "octaves": {}}, Path()), [], []
    for perturb, conditions in grid.groups(grid.conditions):
        launches = reckoned(xp, perturb, conditions)
        name = f"{len(conditions)} {', '.join(dict.fromkeys(condition.probe for condition in conditions))}"
        moved, operations = (
            sum(launch.bytes for launch in launches) / 1e9,
            sum(launch.operations for launch in launches) / 1e9,
        )
        taken, shared = ms(launches), ms([launch for launch in launches if launch.shared])
        rows.append([name, str(len(launches)), *(f"{number:.1f}" for number in (moved, operations, taken, shared))])
        for what, times in Counter(launch.what for launch in launches).items():
            alike = [launch for launch in launches if launch.what == what]
            moved = sum(launch.bytes for launch in alike) / 1e9
            parts.append([name, what, str(times), f"{moved:.2f}", f"{ms(alike):.2f}"])
    table(["conditions", "launches", "GB", "GFLOP", "ms", "of which shared"], rows)
    table(["conditions", "launch", "times", "GB", "ms"], parts)
    table(["for 48 networks", "apart, ms", "shared, ms", "gain"], shared_work())


if __name__ == "__main__":
    main()
