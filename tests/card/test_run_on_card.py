"""Whole runs on a card that lies in wait: no order that it may take changes a row, and no wait can be left out.

The card is that of deferred_card.py, and the libraries those of pretend_gpu.py. A wait is left out by
compiling the source again without it, and giving the code to the function that has it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import count, product
from pathlib import Path
from queue import Empty
from types import CodeType
from typing import Any

import numpy as np
import pretend_tensorrt
import pytest
from deferred_card import CudaError, DeferredCard
from drawn_threads import draw_threads
from imports_of_folders import PACKAGE
from pretend_cupy import CardArray, OutOfMemoryError, PretendCupy, compile_kernels, kernel_launcher
from pretend_gpu import pretend_gpu
from pretend_torch import torch_on
from small import CLASSES, make_images, make_model, make_pictures
from threadpoolctl import threadpool_limits

from bandlens.core.errors import DeviceError
from bandlens.core.records import Cell, Failed, Finished, Model
from bandlens.engine import prefetch
from bandlens.engine.backends import torch as torch_session
from bandlens.engine.backends.base import attack_variant, open_session, plan_file_of, variant_of
from bandlens.engine.cell_progress import Outcome, Progress
from bandlens.engine.decision import Decision
from bandlens.engine.device.pixels import working_bytes
from bandlens.engine.device.streams import new_stream
from bandlens.engine.tasks import Task
from bandlens.engine.workbench import Workbench
from bandlens.export.normalization import NORMALIZATIONS, Normalization
from bandlens.export.onnx.files import save_onnx_file
from bandlens.export.onnx.int8 import symmetric_activations, to_int8
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.precisions import make_onnx_file, read_for_cpu
from bandlens.export.photographs import photograph_crops
from bandlens.probes.arrays import to_numpy
from bandlens.probes.grid import Grid, make_grid
from bandlens.probes.images.decision_spaces import decision_space
from bandlens.probes.images.image_set import ImageSet, Scheme

COUNT, BATCH = 6, 2
MOST = 100
"""Seeds that are tried until an order shows that a wait is missing; most show at the first, the rarest within ten."""
ROOM = {"resident": 1 << 34, "streamed": 0}
"""Places of the images, and the bytes of the card, beside those that a run works in, with which they lie there."""
FILTERS = {"lowpass": {"cutoff": 0.3}, "highpass": {"cutoff": 0.7}, "uniform_noise": {"width": 0.35}}
BANDS = {"critical_band": {"noise_sd": 0.6, "frequency": [0, 4], "draw": ["shared", "independent"]}}
"""A noise so strong that many pixels are drawn again."""
IMAGENET = NORMALIZATIONS["imagenet"]
HALF: Normalization = ((0.5, 0.5, 0.5), (0.25, 0.5, 0.75))
PGD = {"eps": "8/255", "step": "4/255", "steps": 2}
Row = tuple[int, int, int, float]


@dataclass(frozen=True)
class Kind:
    """A kind of run on the card."""

    orders: int
    """Number of orders that are tried, with images on the card and again with images that are streamed."""
    engine: str
    precision: str = "fp32"
    bench: str = "filters"
    lanes: int = 1
    networks: int = 2
    normalized: bool = False
    """Whether images are normalized once for all networks."""


KINDS = {
    "onnxruntime-cuda": Kind(60, "onnxruntime-cuda"),
    "tensorrt": Kind(20, "tensorrt"),
    "torch-cuda": Kind(7, "torch-cuda"),
    "int8": Kind(8, "tensorrt", precision="int8"),
    "critical band": Kind(8, "tensorrt", bench="critical band"),
    "attacks": Kind(6, "onnxruntime-cuda", bench="attacks"),
    "lanes": Kind(20, "tensorrt", lanes=2),
    "normalized": Kind(20, "tensorrt", "fp16", "normalized", lanes=2, normalized=True),
    "normalized in two ways, or not": Kind(8, "tensorrt", "fp16", "normalized", lanes=2, networks=4, normalized=True),
}
SHOWING = ("onnxruntime-cuda", "tensorrt", "torch-cuda", "lanes", "normalized")
"""The kinds that any missing wait shows with."""


@dataclass
class Bench:
    models: list[Model]
    images: ImageSet
    grid: Grid
    launcher: Callable[..., Any]

    def task(self, engine: str, precision: str, models: int) -> Task:
        variants = [variant_of(model, engine, precision) for model in self.models[:models]]
        cells = [Cell(variant, self.images.info, what, 3) for what in self.grid.conditions for variant in variants]
        return Task(tuple(cells), 0, COUNT)

    def attacks(self, engine: str) -> list[Task]:
        variants = [attack_variant(model, engine) for model in self.models]
        cells = [Cell(variant, self.images.info, what, 3) for variant in variants for what in self.grid.attacks]
        return [Task((cell,), 0, COUNT) for cell in cells]

    def workbench(self, lanes: int = 1, normalized: bool = False) -> Workbench:
        return Workbench(self.grid, BATCH, 1, lambda _: self.images, lanes=lanes, normalized=normalized)


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bench]]:
    folder = tmp_path_factory.mktemp("bench")
    launcher = kernel_launcher(compile_kernels(folder))

    def make(
        size: int,
        probes: dict[str, Any],
        classes: int = CLASSES,
        normalizations: Sequence[Normalization | None] = (None, None),
    ) -> Bench:
        folder = tmp_path_factory.mktemp("bench")
        models = [
            make_model(folder, f"m{k}", size=size, classes=classes, seed=k, normalization=normalization)
            for k, normalization in enumerate(normalizations)
        ]
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
            "normalized": make(16, FILTERS, normalizations=[IMAGENET, IMAGENET, HALF, None]),
        }


@pytest.fixture(scope="module")
def cpu_rows(benches: dict[str, Bench]) -> dict[str, dict[str, list[Row]]]:
    """The rows of the CPU."""
    for model in benches["filters"].models:
        int8 = to_int8(model.path.read_bytes(), [photograph_crops(model.image_size)])
        save_onnx_file(model, "int8", symmetric_activations(int8), {})  # the CPU takes this file too
    for model in benches["normalized"].models:
        make_onnx_file(model, "fp16")

    def rows_on_cpu(kind: Kind) -> dict[str, list[Row]]:
        bench = benches[kind.bench]
        if kind.normalized:  # networks that normalize images themselves, one after the other
            with card(bench, ROOM["resident"], 0), bench.workbench() as place:
                return rows(place.compute(bench.task(kind.engine, kind.precision, kind.networks)))
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
        together = zip(columns.predicted, columns.label_rank, best_rank, columns.confidence, strict=True)
        rows_by_cell.setdefault(f"{part.cell.variant.model.name} {part.cell.condition}", []).extend(together)
    return rows_by_cell


class Interrupted(Exception):
    pass


@contextmanager
def card(bench: Bench, room: int, seed: int) -> Iterator[PretendCupy]:
    """The seed draws the order of the work within the block."""
    with pytest.MonkeyPatch.context() as patch:
        xp = pretend_gpu(patch, bench.launcher, seed)
        draw_threads(patch, prefetch, seed)
        patch.setattr(torch_session, "photograph_crops", crops)
        xp.free = working_bytes(bench.images.info.size, BATCH) + room
        with torch_on(xp.card, patch):
            yield xp
            if xp.card.lost is None:
                xp.card.drain()


def on_card(kind: Kind, bench: Bench, room: int, seed: int) -> dict[str, list[Row]]:
    """The rows of a run after one that was interrupted, which took a network less, and before another such one; and of
    attacks after it, each after one that was interrupted.

    At last two sessions, one larger than the other, are asked for more than is read, and closed.
    """
    single, both = (bench.task(kind.engine, kind.precision, count) for count in (1, kind.networks))
    with card(bench, room, seed) as xp:
        with bench.workbench(kind.lanes, kind.normalized) as place:
            interrupt(place, single)
            rows_by_cell = rows(place.compute(both))
            interrupt(place, both)
            for attack in bench.attacks(kind.engine):
                interrupt(place, attack)
                rows_by_cell |= rows(place.compute(attack))
        images = bench.images.pixels[:BATCH] / np.float32(255)
        logits = onnx_logits(read_for_cpu(plan_file_of(both.variants[0])), images)
        with open_session(both.variants[0], BATCH, 1, normalized=kind.normalized) as small:
            with new_stream(xp):  # nobody waits for its work
                small.infer(xp.zeros(images.shape, xp.float32))
            with open_session(both.variants[1], 2 * BATCH, 1, kind.lanes - 1, kind.normalized) as large:
                batches = [xp.asarray(images) for _ in range(8)]  # they may take the memory of arrays that are gone
                copies = [small.infer(batch).copy() for batch in batches]
                apart = [np.abs(to_numpy(copy) - logits).max() for copy in copies]
                large.infer(xp.zeros((2 * BATCH, *images.shape[1:]), xp.float32))
    assert max(apart) < 1e-3
    return rows_by_cell


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


def assert_rows(card_rows: dict[str, list[Row]], cpu_rows: dict[str, list[Row]]) -> None:
    assert card_rows.keys() == cpu_rows.keys()
    for cell, expected in cpu_rows.items():
        assert [row[:3] for row in card_rows[cell]] == [row[:3] for row in expected]
        np.testing.assert_allclose([row[3] for row in card_rows[cell]], [row[3] for row in expected], rtol=1e-4)


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("name", KINDS)
def test_no_order_that_a_card_may_take_changes_a_row(
    benches: dict[str, Bench], cpu_rows: dict[str, dict[str, list[Row]]], name: str, room: str
) -> None:
    kind = KINDS[name]
    for seed in range(kind.orders):
        card_rows = on_card(kind, benches[kind.bench], ROOM[room], seed)
        assert_rows(card_rows, cpu_rows[name])
        if kind.normalized:
            assert card_rows == cpu_rows[name], "to the last bit of the confidence"


def test_ranges_name_what_each_thread_does(benches: dict[str, Bench]) -> None:
    kind = KINDS["tensorrt"]
    bench = benches[kind.bench]
    task = bench.task(kind.engine, kind.precision, 2)
    with card(bench, ROOM["resident"], 0) as xp, bench.workbench() as place:
        rows(place.compute(task))
        ranges = Counter(xp.cuda.nvtx.ranges)
    batches = -(-COUNT // BATCH)
    host = threading.current_thread().name
    assert ranges[host, "model"] == ranges[host, "reduce"] == batches * len(task.cells)
    # The end of each batch's conditions is looked for once more.
    assert ranges["perturb", "perturb"] >= batches * len(bench.grid.conditions)
    assert ranges[host, "flush"] >= 1
    assert {name for _, name in ranges} == {"model", "reduce", "perturb", "flush"}


def test_two_lanes_do_not_wait_for_each_other(benches: dict[str, Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """The card counts time as if it did the work of all streams side by side: two lanes take half of it."""
    monkeypatch.setattr(pretend_tensorrt, "SECONDS", 1.0)
    bench, seconds, shares = benches["filters"], dict[int, float](), dict[int, float]()
    task = bench.task("tensorrt", "fp32", 2)
    for lanes in (1, 2):
        with card(bench, ROOM["resident"], 0) as xp, bench.workbench(lanes) as place:
            place.open(task.variants)
            xp.card.drain()
            for stream in xp.card.streams:
                stream.time = 0.0  # plans have been compared by now
            parts = [part for parts in place.compute(task) for part in parts]
            seconds[lanes] = max(stream.time for stream in xp.card.streams)
            shares[lanes] = sum(part.seconds for part in parts if isinstance(part, Finished))
    asked = -(-COUNT // BATCH) * len(task.cells) * 2 * pretend_tensorrt.SECONDS
    assert seconds == pytest.approx({1: asked, 2: asked / 2}, rel=1e-3)
    assert shares == pytest.approx(seconds, rel=1e-3), "a part has its share of the time of the card"


@pytest.mark.parametrize("prepared", [True, False])
def test_lanes_read_what_a_decision_is_made_with_where_it_was_prepared(
    benches: dict[str, Bench], monkeypatch: pytest.MonkeyPatch, prepared: bool
) -> None:
    """Without that, the lane that decides first makes it, and some order has the other read it before."""
    bench = benches["sixteen"]

    def rows_of(engine: str, lanes: int) -> dict[str, list[Row]]:
        with bench.workbench(lanes) as place:
            return rows(place.compute(bench.task(engine, "fp32", 2)))

    def differs(seed: int) -> bool:
        with card(bench, ROOM["resident"], seed):
            try:
                assert_rows(rows_of("tensorrt", 2), expected)
            except (AssertionError, IndexError):
                return True
            return False

    expected = rows_of("onnxruntime", 1)
    if not prepared:
        monkeypatch.setattr(Decision, "prepare", lambda _: None)
    assert any(differs(seed) for seed in range(10)) != prepared


def test_a_seed_stands_for_one_order(benches: dict[str, Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that fails under a seed fails again."""
    steps, step = list[list[int]](), DeferredCard.step

    def noted(card: DeferredCard) -> None:
        steps.append([len(stream.queue) for stream in card.streams])
        step(card)

    def order(seed: int) -> list[list[int]]:
        steps.clear()
        on_card(KINDS["attacks"], benches["attacks"], ROOM["streamed"], seed)
        return list(steps)

    monkeypatch.setattr(DeferredCard, "step", noted)
    assert order(0) == order(0) != order(1)


# A card that is lost

ILLEGAL = "cudaErrorIllegalAddress: an illegal memory access was encountered"


def illegal() -> None:
    raise CudaError(ILLEGAL)


@pytest.mark.parametrize("last", [1, 4, 20], ids=lambda last: f"after {last}")
@pytest.mark.parametrize("name", [*SHOWING, "attacks"])
def test_a_lost_card_ends_a_run_with_its_first_error_and_what_was_yielded_stays(
    benches: dict[str, Bench], cpu_rows: dict[str, dict[str, list[Row]]], name: str, last: int
) -> None:
    """Every call fails from then on: those that close the sessions, too."""
    kind, bench = KINDS[name], benches[KINDS[name].bench]
    tasks = [bench.task(kind.engine, kind.precision, 2), *bench.attacks(kind.engine)]
    for seed in range(3):
        yielded, made = list[list[Outcome]](), list[int]()
        with card(bench, ROOM["streamed"], seed) as xp:

            def progress(count: int, xp: PretendCupy = xp, made: list[int] = made) -> None:
                made.append(count)
                if len(made) == last:
                    xp.card.ask(illegal)

            def compute(progress: Progress = progress, yielded: list[list[Outcome]] = yielded) -> None:
                with bench.workbench(kind.lanes, kind.normalized) as place:
                    for task in tasks:
                        yielded += place.compute(task, range_seconds=0, progress=progress)

            with pytest.raises(DeviceError, match=ILLEGAL) as caught:
                compute()
            assert str(caught.value).endswith("what was committed stays, and the next run goes on there")
            assert len(made) >= last
        for cell, card_rows in rows(yielded).items():
            expected = cpu_rows[name][cell][: len(card_rows)]
            assert [row[:3] for row in card_rows] == [row[:3] for row in expected]


@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "tensorrt"])
def test_a_card_that_is_lost_already_is_told_in_a_line(benches: dict[str, Bench], engine: str) -> None:
    bench = benches["filters"]
    with card(bench, ROOM["resident"], 0) as xp, bench.workbench() as place:
        place.open(bench.task(engine, "fp32", 1).variants)
        xp.card.ask(illegal)
        with pytest.raises(CudaError, match=ILLEGAL):
            xp.card.current().synchronize()
        with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
            place.open(bench.task(engine, "fp32", 2).variants)
        with pytest.raises(DeviceError, match="the GPU failed: cudaErrorIllegalAddress"):
            place.close()


ALLOCATIONS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987)
"""Numbers of the allocation that fails: as a session is opened, buffers are made, a batch is run, or parts fetched."""


@pytest.mark.parametrize("name", SHOWING)
def test_memory_that_is_short_is_told_in_a_line_wherever_it_is_asked_for(
    benches: dict[str, Bench], cpu_rows: dict[str, dict[str, list[Row]]], name: str
) -> None:
    kind, bench, new = KINDS[name], benches[KINDS[name].bench], CardArray.new
    messages = list[str]()
    for number in ALLOCATIONS:
        asked = count()

        def allocate(card: DeferredCard, like: Any, asked: Any = asked, number: int = number) -> CardArray:
            if next(asked) == number:
                raise OutOfMemoryError("Out of memory allocating 1,048,576 bytes (allocated so far: 512 bytes).")
            return new(card, like)

        with card(bench, ROOM["resident"], 0), pytest.MonkeyPatch.context() as patch:
            patch.setattr(CardArray, "new", allocate)
            try:
                with bench.workbench(kind.lanes, kind.normalized) as place:
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

WAITS = {"wait_for", "wait_event", "synchronize", "finish", "until_done", "in_turn", "give", "follow", "rejoin"}
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


NO_ROWS = {"TensorRTSession.profile", "profile_layers", "measure_roofline", "measure_rate"}
"""Functions that no run calls: they wait for the sake of times, and no row depends on these waits."""
PLACES = {
    f"{file.relative_to(PACKAGE)} {name} {number}": (file, name, number)
    for folder in ("engine", "probes")
    for file in sorted((PACKAGE / folder).rglob("*.py"))
    for name, function in functions(parsed(file)).items()
    if name not in NO_ROWS
    for number in range(len(calls(function)))
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_without_any_single_wait_some_order_changes_a_row(
    benches: dict[str, Bench],
    cpu_rows: dict[str, dict[str, list[Row]]],
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[Path, str, int],
) -> None:
    """Where no row changes, what is at work is destroyed, or memory that is none is read, or nobody comes to an end."""
    monkeypatch.setattr(live(*place[:2]), "__code__", without(*place))
    for seed in range(MOST):
        for name, room in product(SHOWING, ROOM.values()):
            try:
                assert_rows(on_card(KINDS[name], benches[KINDS[name].bench], room, seed), cpu_rows[name])
            except (AssertionError, CudaError, DeviceError, Empty):
                return
    pytest.fail("no order shows it")
