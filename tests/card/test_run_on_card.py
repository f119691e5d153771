"""Whole runs on a card that lies in wait: no order that it may take changes a row, and no wait can be left out.

The card is that of deferred_card.py, and the libraries those of pretend_gpu.py. A wait is left out by
compiling the source again without it, and giving the code to the function that has it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from itertools import count, product
from pathlib import Path
from queue import Empty
from types import CodeType
from typing import Any

import numpy as np
import pytest
from deferred_card import CudaError, DeferredCard, Event
from drawn_threads import draw_threads
from imports_of_folders import PACKAGE
from pretend_cupy import CardArray, OutOfMemoryError, PretendCupy, illegal
from pretend_gpu import pretend_gpu
from pretend_torch import torch_on
from small import CLASSES, make_images, make_model, make_pictures
from threadpoolctl import threadpool_limits

from bandlens.core.errors import DeviceError
from bandlens.core.records import Cell, Failed, Model
from bandlens.engine import prefetch
from bandlens.engine.backends.base import attack_variant, open_session, plan_file_of, variant_of
from bandlens.engine.device.streams import network_stream, new_stream
from bandlens.engine.task_context import Workbench
from bandlens.engine.tasks import Outcome, Task
from bandlens.export.model_files import save_onnx_file
from bandlens.export.onnx.int8 import symmetric_activations, to_int8
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.precisions import read_for_cpu
from bandlens.export.reference_images import photograph_crops
from bandlens.probes.arrays import to_numpy
from bandlens.probes.grid import Grid, make_grid
from bandlens.probes.images.decision_spaces import decision_space
from bandlens.probes.images.image_set import ImageSet, Scheme

COUNT, BATCH = 6, 2
MOST_SEEDS = 7
"""Seeds that are tried, with each kind, until an order shows that a wait is missing."""
FILTERS = {"lowpass": {"cutoff": 0.3}, "highpass": {"cutoff": 0.7}, "uniform_noise": {"width": 0.35}}
BANDS = {"critical_band": {"noise_sd": 0.6, "frequency": [0, 4], "draw": ["shared", "independent"]}}
"""A noise so strong that many pixels are drawn again."""
PGD = {"eps": "8/255", "step": "4/255", "steps": 2}
Row = tuple[int, int, int, float]


@dataclass(frozen=True)
class Kind:
    """A kind of run on the card."""

    orders: int
    """Number of orders that are tried."""
    engine: str
    precision: str = "fp32"
    bench: str = "filters"


KINDS = {
    "onnxruntime-cuda": Kind(12, "onnxruntime-cuda"),
    "tensorrt": Kind(10, "tensorrt"),
    "torch-cuda": Kind(4, "torch-cuda"),
    "int8": Kind(4, "tensorrt", precision="int8"),
    "sixteen": Kind(2, "tensorrt", bench="sixteen"),
    "critical band": Kind(4, "tensorrt", bench="critical band"),
    "attacks": Kind(4, "onnxruntime-cuda", bench="attacks"),
}
"""Together these are 40 orders."""
SHOWING = ("onnxruntime-cuda", "tensorrt", "torch-cuda")
"""The kinds that any missing wait shows with."""


@dataclass
class Bench:
    models: list[Model]
    images: ImageSet
    grid: Grid
    launcher: Callable[..., Any]

    def task(self, engine: str, precision: str, models: int) -> Task:
        variants = [variant_of(model, engine, precision) for model in self.models[:models]]
        pairs = product(self.grid.conditions, variants)
        return Task(tuple(Cell(variant, self.images.info, condition, 3) for condition, variant in pairs))

    def attacks(self, engine: str) -> list[Task]:
        variants = [attack_variant(model, engine) for model in self.models]
        cells = [Cell(variant, self.images.info, attack, 3) for variant in variants for attack in self.grid.attacks]
        return [Task((cell,)) for cell in cells]

    def workbench(self) -> Workbench:
        return Workbench(self.grid, BATCH, 1, lambda _: self.images)


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory, launcher: Callable[..., Any]) -> Iterator[dict[str, Bench]]:
    def make(size: int, probes: dict[str, Any], classes: int = CLASSES) -> Bench:
        folder = tmp_path_factory.mktemp("bench")
        models = [make_model(folder, f"m{k}", size=size, classes=classes, seed=k) for k in range(2)]
        pictures = make_pictures(COUNT, size)
        in_range = pictures.transpose(0, 3, 1, 2) / np.float32(255)
        # With these labels the first network is right, and attacks have something to win.
        labels = onnx_logits(models[0].path.read_bytes(), in_range).argmax(1).tolist()
        images = make_images(folder / "images.set", pictures, labels=labels)
        pairs = np.array([(k, c) for k, label in enumerate(labels) for c in {label, k % 2}], np.int32)
        images = replace(images, schemes={"real": Scheme(*pairs.T)})
        return Bench(models, images, make_grid(probes, folder), launcher)

    def in_sixteen(bench: Bench) -> Bench:
        ids = np.array(decision_space("sixteen").ids, np.int32)
        info = replace(bench.images.info, decision_space="sixteen")
        return replace(bench, images=replace(bench.images, info=info, labels=ids[np.arange(COUNT) % 16], schemes={}))

    with threadpool_limits(1, "blas"):  # more are no faster here, and cost five times as much
        yield {
            "filters": make(16, FILTERS),
            "critical band": make(128, BANDS),
            "attacks": make(16, {"lowpass": {"cutoff": 0.3}, "pgd_linf": PGD, "pgd_any": PGD}),
            "sixteen": in_sixteen(make(16, FILTERS, 1000)),
        }


@pytest.fixture(scope="module")
def cpu_rows(benches: dict[str, Bench]) -> dict[str, dict[str, list[Row]]]:
    """The rows of the CPU."""
    for model in benches["filters"].models:
        int8 = to_int8(model.path.read_bytes(), [photograph_crops(model.image_size)])
        save_onnx_file(model, "int8", symmetric_activations(int8), {})  # the CPU takes this file too

    def rows_on_cpu(kind: Kind) -> dict[str, list[Row]]:
        bench = benches[kind.bench]
        with bench.workbench() as place:
            tasks = [bench.task("onnxruntime", kind.precision, 2), *bench.attacks("onnxruntime")]
            return rows(outcome for task in tasks for outcome in place.compute(task))

    return {name: rows_on_cpu(kind) for name, kind in KINDS.items()}


def rows(outcomes: Iterable[Any]) -> dict[str, list[Row]]:
    rows_by_cell: dict[str, list[Row]] = {}
    for part in (part for parts in outcomes for part in parts):
        assert not isinstance(part, Failed), part.error
        columns = part.predictions
        best_rank = columns.label_rank if columns.best_rank is None else columns.best_rank
        cell_rows = zip(columns.predicted, columns.label_rank, best_rank, columns.confidence, strict=True)
        rows_by_cell.setdefault(f"{part.cell.variant.model.name} {part.cell.condition}", []).extend(cell_rows)
    return rows_by_cell


@contextmanager
def card(bench: Bench, seed: int) -> Iterator[PretendCupy]:
    """The seed draws the order of the work within the block."""
    with pytest.MonkeyPatch.context() as patch:
        xp = pretend_gpu(patch, bench.launcher, seed)
        draw_threads(patch, prefetch, seed)
        with torch_on(xp.card, patch):
            yield xp
            if xp.card.lost is None:
                xp.card.drain()


def on_card(kind: Kind, bench: Bench, seed: int) -> dict[str, list[Row]]:
    """The rows of a run before one that was interrupted; under every second seed after such a one, which took a network
    less; and of attacks after it, each after one that was interrupted.

    Then another workbench computes some of the rows again, since its arrays may lie where those of the interrupted run
    did. At last two sessions, one larger than the other, are asked for more than is read, and closed.
    """
    single, pair = (bench.task(kind.engine, kind.precision, count) for count in (1, 2))
    with card(bench, seed) as xp:
        with bench.workbench() as place:
            if seed % 2:
                interrupt(place, single)
            rows_by_cell = rows(place.compute(pair))
            interrupt(place, pair)
            for attack in bench.attacks(kind.engine):
                interrupt(place, attack)
                rows_by_cell |= rows(place.compute(attack))
        with bench.workbench() as place:
            assert rows(place.compute(single)).items() <= rows_by_cell.items()
        images = bench.images.pixels[:BATCH] / np.float32(255)
        logits = onnx_logits(read_for_cpu(plan_file_of(pair.variants[0])), images)
        with open_session(pair.variants[0], BATCH, 1) as small_session:
            with new_stream(xp):  # nobody waits for its work
                small_session.infer(xp.zeros(images.shape, xp.float32))
            with open_session(pair.variants[1], 2 * BATCH, 1) as large_session:
                batches = [xp.asarray(images) for _ in range(8)]  # they may take the memory of arrays that are gone
                copies = [small_session.infer(batch).copy() for batch in batches]
                apart = [np.abs(to_numpy(copy) - logits).max() for copy in copies]
                large_session.infer(xp.zeros((2 * BATCH, *images.shape[1:]), xp.float32))
    assert max(apart) < 1e-3
    return rows_by_cell


def interrupt(place: Workbench, task: Task) -> None:
    """Compute the task until a few predictions have been asked for."""
    counts = list[int]()

    def progress(count: int) -> None:
        counts.append(count)
        if len(counts) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(place.compute(task, progress=progress))


def assert_rows(card_rows: dict[str, list[Row]], cpu_rows: dict[str, list[Row]]) -> None:
    assert card_rows.keys() == cpu_rows.keys()
    for cell, expected in cpu_rows.items():
        assert [row[:3] for row in card_rows[cell]] == [row[:3] for row in expected]
        np.testing.assert_allclose([row[3] for row in card_rows[cell]], [row[3] for row in expected], rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_no_order_that_a_card_may_take_changes_a_row(
    benches: dict[str, Bench],
    cpu_rows: dict[str, dict[str, list[Row]]],
    name: str,
    pytestconfig: pytest.Config,
) -> None:
    kind = KINDS[name]
    first: int = pytestconfig.getoption("--first-order")
    for seed in range(first, first + kind.orders):
        card_rows = on_card(kind, benches[kind.bench], seed)
        assert_rows(card_rows, cpu_rows[name])


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "tensorrt"])
def test_a_session_has_no_memory_that_another_stream_is_about_to_write(benches: dict[str, Bench], name: str) -> None:
    bench = benches["filters"]
    variant = variant_of(bench.models[0], name, "fp32")
    images = bench.images.pixels[:BATCH] / np.float32(255)
    with card(bench, 0) as xp:
        open_session(variant, BATCH, 1).__exit__(None, None, None)  # a plan is built and compared
        late = Event(xp.card)
        xp.card.null.wait_event(late)
        scores = [xp.zeros((BATCH, CLASSES), xp.float32) for _ in range(8)]
        del scores  # nobody holds them, and their stream has not come to them
        with open_session(variant, BATCH, 1) as session, network_stream(xp):
            logits = session.infer(xp.asarray(images))
            xp.cuda.get_current_stream().synchronize()
            late.reached = True
            xp.card.drain()
            expected = onnx_logits(variant.model.path.read_bytes(), images)
            np.testing.assert_allclose(to_numpy(logits), expected, atol=1e-3)


# A card that is lost


@pytest.mark.parametrize("last", [1, 4, 20], ids=lambda last: f"after {last}")
@pytest.mark.parametrize("name", [*SHOWING, "attacks"])
def test_a_lost_card_ends_a_run_with_its_first_error_and_what_was_yielded_stays(
    benches: dict[str, Bench], cpu_rows: dict[str, dict[str, list[Row]]], name: str, last: int
) -> None:
    """Every call fails from then on: those that close the sessions, too."""
    kind, bench = KINDS[name], benches[KINDS[name].bench]
    tasks = [bench.task(kind.engine, kind.precision, 2), *bench.attacks(kind.engine)]
    outcomes, counts = list[list[Outcome]](), list[int]()
    with card(bench, last) as xp:

        def progress(count: int) -> None:
            counts.append(count)
            if len(counts) == last:
                xp.card.ask(illegal)

        def compute() -> None:
            with bench.workbench() as place:
                for task in tasks:
                    outcomes.extend(place.compute(task, range_seconds=0, progress=progress))

        with pytest.raises(DeviceError, match="cudaErrorIllegalAddress: an illegal memory access was") as error:
            compute()
        assert str(error.value).endswith("what was committed stays, and the next run goes on there")
        assert len(counts) >= last
    for cell, card_rows in rows(outcomes).items():
        expected = cpu_rows[name][cell][: len(card_rows)]
        assert [row[:3] for row in card_rows] == [row[:3] for row in expected]


ALLOCATIONS = (0, 1, 2, 3, 5, 8, 13, 21, 55, 144, 987)
"""Numbers of the allocation that fails: as a session is opened, buffers are made, a batch is run, or parts fetched."""


@pytest.mark.parametrize("name", SHOWING)
def test_memory_that_is_short_is_told_in_a_line_wherever_it_is_asked_for(
    benches: dict[str, Bench], cpu_rows: dict[str, dict[str, list[Row]]], name: str
) -> None:
    kind, bench, new = KINDS[name], benches[KINDS[name].bench], CardArray.new
    messages = list[str]()
    for number in ALLOCATIONS:
        requests = count()

        def allocate(card: DeferredCard, like: Any, requests: Any = requests, number: int = number) -> CardArray:
            if next(requests) == number:
                raise OutOfMemoryError("Out of memory allocating 1,048,576 bytes (allocated so far: 512 bytes).")
            return new(card, like)

        with card(bench, 0), pytest.MonkeyPatch.context() as patch:
            patch.setattr(CardArray, "new", allocate)
            try:
                with bench.workbench() as place:
                    assert_rows(rows(place.compute(bench.task(kind.engine, kind.precision, 2))), cpu_rows[name])
            except DeviceError as error:
                messages.append(str(error))
            else:
                messages.append("")
            patch.setattr(CardArray, "new", new)
    assert all(messages[:8])
    assert not messages[-1], "the last number is beyond the allocations of the run"
    advice = re.compile(r"[Oo]ut of memory.*(batch|free memory|fewer checkpoints)")
    assert not [message for message in messages if message and not advice.search(message)]


# Without a wait

WAITS = {"wait_for", "wait_event", "synchronize", "give", "in_network_stream"}
"""Names of functions that order work, wait for it, or hand a buffer back."""


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


def without(file: Path, name: str, number: int) -> CodeType:
    """The function's code without one of its calls."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
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


NO_ROWS = {"measure_rate"}
"""A function that no run calls: it waits for the sake of times, and no row depends on these waits."""
PLACES = {
    f"{file.relative_to(PACKAGE)} {name} {number}": (file, name, number)
    for folder in ("engine", "probes")
    for file in sorted((PACKAGE / folder).rglob("*.py"))
    for name, function in functions(ast.parse(file.read_text(encoding="utf-8"))).items()
    if name not in NO_ROWS
    for number in range(len(calls(function)))
}


def shows(benches: dict[str, Bench], cpu_rows: dict[str, dict[str, list[Row]]], name: str, seed: int) -> bool:
    """Whether rows change, what is at work is destroyed, memory that is none is read, or nobody comes to an end."""
    try:
        assert_rows(on_card(KINDS[name], benches[KINDS[name].bench], seed), cpu_rows[name])
    except (AssertionError, CudaError, DeviceError, Empty):
        return True
    return False


REMEMBERED = Path(__file__).with_name("shown_waits.json")
"""The kind and seed that showed the absence of each wait last time; BANDLENS_REMEMBER=1 writes it again."""


@pytest.mark.parametrize("place", PLACES)
def test_without_any_single_wait_some_order_shows_it(
    benches: dict[str, Bench],
    cpu_rows: dict[str, dict[str, list[Row]]],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """The order that showed it last time is tried first."""
    file, name, number = PLACES[place]
    monkeypatch.setattr(live(file, name), "__code__", without(file, name, number))
    remembered = json.loads(REMEMBERED.read_text(encoding="utf-8"))
    orders = [(kind, seed) for seed in range(MOST_SEEDS) for kind in SHOWING]
    for order in ([remembered[place]] if place in remembered else []) + orders:
        if shows(benches, cpu_rows, *order):
            if os.environ.get("BANDLENS_REMEMBER"):
                REMEMBERED.write_text(json.dumps(remembered | {place: order}, indent=1, sort_keys=True) + "\n")
            return
    pytest.fail("no order shows it")
