"""Whole runs on a card that lies in wait: no order that it may take changes a row, and no wait can be left out.

The card is that of tests/deferred_card.py, and the libraries those of tests/pretend_gpu.py. A wait is left out by
compiling the source again without it, and giving the code to the function that has it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, reduce
from itertools import product
from pathlib import Path
from queue import Empty, SimpleQueue
from types import CodeType
from typing import Any

import numpy as np
import pytest
from deferred_card import CudaError
from imports_of_folders import PACKAGE
from pretend_cupy import compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from small import CLASSES, make_images, make_model, make_pictures

from bandlens.engine import prefetch
from bandlens.engine.backends import torch as torch_session
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.engine.device.streams import new_stream
from bandlens.engine.run import run
from bandlens.engine.tasks import Task
from bandlens.engine.workbench import Workbench
from bandlens.errors import DeviceError
from bandlens.export.parity import onnx_logits
from bandlens.export.photographs import photograph_crops
from bandlens.probes.arrays import to_numpy
from bandlens.probes.grid import Grid, make_grid
from bandlens.probes.images.image_set import ImageSet
from bandlens.records import Cell, Failed, Model

COUNT, SIZE, BATCH = 6, 16, 2
ORDERS = {"onnxruntime-cuda": 75, "tensorrt": 30, "torch-cuda": 8}
"""Engine -> how many orders are tried, with images on the card and again with images that are streamed."""
MOST = 100
"""Seeds that are tried for an order that shows that a wait is missing; most show at the first, the rarest within 15."""
ROOM = {"resident": 1 << 34, "streamed": 100_000}
"""Bytes of the card's memory with which the images lie on it, or do not."""
PROBES = {"lowpass": {"cutoff": 0.3}, "highpass": {"cutoff": 0.7}, "uniform_noise": {"width": 0.35}}
Row = tuple[int, int, float]


@dataclass
class Bench:
    models: list[Model]
    images: ImageSet
    grid: Grid
    launcher: Callable[..., Any]

    def cells(self, engine: str, models: Iterable[Model]) -> tuple[Cell, ...]:
        variants = [variant_of(model, engine, "fp32") for model in models]
        return tuple(Cell(one, self.images.info, what, 3) for what in self.grid.conditions for one in variants)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    models = [make_model(folder, f"m{k}", size=SIZE, seed=k) for k in range(2)]
    labels = [k % CLASSES for k in range(COUNT)]
    images = make_images(folder / "images.set", make_pictures(COUNT, SIZE), labels=labels)
    return Bench(models, images, make_grid(PROBES, folder), kernel_launcher(compile_kernels(folder)))


def rows(outcomes: Iterable[Any]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for part in (part for parts in outcomes for part in parts):
        assert not isinstance(part, Failed), part.error
        columns = part.predictions
        together = zip(columns.predicted, columns.label_rank, columns.confidence, strict=True)
        found.setdefault(f"{part.cell.variant.model.name} {part.cell.condition}", []).extend(together)
    return found


@pytest.fixture(scope="module")
def wanted(bench: Bench) -> dict[str, list[Row]]:
    """The rows of the CPU."""
    cells = bench.cells("onnxruntime", bench.models)
    sessions = {cell.variant: open_session(cell.variant, BATCH, 1) for cell in cells}
    return rows(run([(cell, 0) for cell in cells], bench.images, bench.grid, sessions))


class Interrupted(Exception):
    pass


def on_card(bench: Bench, engine: str, room: int, seed: int) -> dict[str, list[Row]]:
    """The rows of a run after one that was interrupted, which took a network less, and before another such one.

    Afterwards two sessions, one larger than the other, are asked for more than is read, and closed.
    """
    with pytest.MonkeyPatch.context() as patch:
        xp = pretend_gpu(patch, bench.launcher, seed)
        patch.setattr(torch_session, "photograph_crops", crops)
        xp.free = room
        one, both = (Task(bench.cells(engine, bench.models[:count]), 0, COUNT) for count in (1, 2))
        with Workbench(bench.grid, BATCH, 1, lambda _: bench.images) as place:
            interrupt(place, one)
            found = rows(place.compute(both))
            interrupt(place, both)
        images = bench.images.pixels[:BATCH] / np.float32(255)
        logits = onnx_logits(bench.models[0].path.read_bytes(), images)
        with open_session(both.variants[0], BATCH, 1) as small:
            with new_stream(xp):  # for which nobody waits
                small.infer(xp.zeros(images.shape, xp.float32))
            with open_session(both.variants[1], 2 * BATCH, 1) as large:
                batches = [xp.asarray(images) for _ in range(8)]  # in the memory of whatever there was before
                copies = [small.infer(batch).copy() for batch in batches]
                apart = [np.abs(to_numpy(copy) - logits).max() for copy in copies]
                large.infer(xp.zeros((2 * BATCH, *images.shape[1:]), xp.float32))
        xp.card.drain()
    assert max(apart) < 1e-3
    return found


crops = cache(photograph_crops)


def interrupt(place: Workbench, task: Task) -> None:
    """Compute the task until a few predictions have been asked for."""
    made = list[int]()

    def progress(amount: int) -> None:
        made.append(amount)
        if len(made) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        list(place.compute(task, progress=progress))


def assert_rows(found: dict[str, list[Row]], wanted: dict[str, list[Row]]) -> None:
    assert found.keys() == wanted.keys()
    for cell, expected in wanted.items():
        assert [row[:2] for row in found[cell]] == [row[:2] for row in expected]
        np.testing.assert_allclose([row[2] for row in found[cell]], [row[2] for row in expected], rtol=1e-4)


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("engine", ORDERS)
def test_no_order_that_a_card_may_take_changes_a_row(
    bench: Bench, wanted: dict[str, list[Row]], engine: str, room: str
) -> None:
    for seed in range(ORDERS[engine]):
        assert_rows(on_card(bench, engine, ROOM[room], seed), wanted)


# Without a wait

WAITS = {"wait_for", "wait_event", "synchronize", "finish", "until_done", "in_turn", "give"}
"""What orders work, waits for it, or hands a buffer back."""


def functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """Functions and methods by their qualified names; those within them belong to them."""
    classes = [("", tree), *((f"{node.name}.", node) for node in tree.body if isinstance(node, ast.ClassDef))]
    owned = [(prefix, node) for prefix, owner in classes for node in owner.body]
    return {prefix + node.name: node for prefix, node in owned if isinstance(node, ast.FunctionDef)}


def calls(function: ast.FunctionDef) -> list[tuple[ast.AST, str]]:
    """Statements that do nothing but call one of WAITS, and blocks in its hands: each with the field of the call."""
    fields = {ast.Expr: "value", ast.withitem: "context_expr"}
    places = [(node, fields[type(node)]) for node in ast.walk(function) if type(node) in fields]
    return [(node, field) for node, field in places if called(getattr(node, field)) in WAITS]


def called(expression: ast.expr) -> str:
    function = getattr(expression, "func", None)
    return getattr(function, "attr", getattr(function, "id", ""))


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def without(file: Path, name: str, number: int) -> CodeType:
    """The function's code without one of its calls."""
    tree = parsed(file)
    node, field = calls(functions(tree)[name])[number]
    setattr(node, field, ast.parse("__import__('contextlib').nullcontext()", mode="eval").body)
    return code_of(compile(tree, str(file), "exec"), name)


def code_of(code: CodeType, name: str) -> Any:
    parts = [part for part in code.co_consts if isinstance(part, CodeType)]
    return code if code.co_qualname == name else next(filter(None, (code_of(part, name) for part in parts)), None)


def live(file: Path, name: str) -> Any:
    """The function that the package runs."""
    module = importlib.import_module(".".join(["bandlens", *file.relative_to(PACKAGE).with_suffix("").parts]))
    return inspect.unwrap(reduce(getattr, name.split("."), module))


PLACES = {
    f"{file.relative_to(PACKAGE)} {name} {number}": (file, name, number)
    for folder in ("engine", "probes")
    for file in sorted((PACKAGE / folder).rglob("*.py"))
    for name, function in functions(parsed(file)).items()
    for number in range(len(calls(function)))
}


class Impatient(SimpleQueue):  # type: ignore[type-arg]
    def get(self) -> Any:  # type: ignore[override]
        return super().get(timeout=5)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_without_any_single_wait_some_order_changes_a_row(
    bench: Bench, wanted: dict[str, list[Row]], monkeypatch: pytest.MonkeyPatch, place: tuple[Path, str, int]
) -> None:
    """Or what is at work is destroyed, or memory that is none is read, or nobody comes to an end."""
    monkeypatch.setattr(live(*place[:2]), "__code__", without(*place))
    monkeypatch.setattr(prefetch, "SimpleQueue", Impatient)
    for seed in range(MOST):
        for engine, room in product(ORDERS, ROOM):
            try:
                assert_rows(on_card(bench, engine, ROOM[room], seed), wanted)
            except (AssertionError, CudaError, DeviceError, Empty):
                return
    pytest.fail("no order shows it")
