"""Workers are handed tasks one at a time; one that dies or hangs is replaced, and its task is tried again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bandlens.core.errors import DeviceError, EngineError
from bandlens.core.records import Cell, Condition, ImageSetInfo, Model, Variant
from bandlens.engine import schedule
from bandlens.engine.schedule import STARTS, TRIES, Schedule, answer, line_of
from bandlens.engine.tasks import Task

IMAGES = ImageSetInfo("set", "set", "set", 4, 224, "none", labelled=False)
MODEL = Model("one", "own", "small", "w", "random", "none", Path("one.onnx"), "s", 224, 1000)


def cell(condition: str, model: str = "one") -> Cell:
    variant = Variant(MODEL, "onnxruntime", "fp32", Path(f"{model}.onnx"), model)
    return Cell(variant, IMAGES, Condition(condition, (), condition), 0)


def task(*cells: Cell) -> Task:
    return Task(cells)


CELLS = [cell(name) for name in "abcdefgh"]


@dataclass
class Ledger:
    """A ledger whose requests are tasks, and whose replies are the cells that are done."""

    starts: int = 0
    cells: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def begin(self) -> None:
        self.starts += 1

    def request(self, task: Task) -> Task:
        return task

    def accept(self, task: Task, reply: list[Cell]) -> Task | None:
        self.cells += reply
        rest = [cell for cell in task.cells if cell not in reply]
        return task.limited_to(rest) if rest else None

    def fail(self, task: Task, error: str) -> None:
        self.failed |= dict.fromkeys(task.cells, error)

    def tell(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class MadeUpWorker:
    """A worker that gives `reply(request)` at once; an exception that this raises is the end of its process."""

    reply: Callable[[Task], Any] = lambda request: list(request.cells)
    opens: Callable[[], Any] = lambda: None
    starts: int = 0
    requests: list[Task] = field(default_factory=list)

    def restart(self) -> None:
        self.starts += 1

    def submit(self, request: Task | None) -> Future[Any]:
        future: Future[Any] = Future()
        if request is not None:
            self.requests.append(request)
        try:
            reply = self.opens() if request is None else self.reply(request)
        except Exception as error:  # noqa: BLE001 - as a process would end
            future.set_exception(error)
        else:
            if reply is not ...:  # a worker that hangs
                future.set_result(reply)
        return future


def run(workers: list[MadeUpWorker], *tasks: Task) -> Ledger:
    ledger = Ledger()
    Schedule(workers, tasks, ledger).run()
    return ledger


def test_every_cell_is_computed_once_and_by_all_workers() -> None:
    workers = [MadeUpWorker() for _ in range(3)]
    ledger = run(workers, task(*CELLS))
    assert Counter(ledger.cells) == Counter(CELLS)
    assert [len(worker.requests) for worker in workers] == [1, 1, 1], "one task is divided among three"
    assert ledger.starts


def test_networks_share_the_images_of_a_condition() -> None:
    names = ["one", "two", "three"]
    cells = [cell(condition, model) for condition in "ab" for model in names]
    workers = [MadeUpWorker() for _ in range(2)]
    run(workers, task(*cells))
    assert sorted(len({cell.condition for cell in worker.requests[0].cells}) for worker in workers) == [1, 1]


def test_what_a_worker_leaves_is_a_task_again() -> None:
    worker = MadeUpWorker(lambda request: [request.cells[0]])
    ledger = run([worker], task(*CELLS))
    assert ledger.cells == CELLS
    assert len(worker.requests) == len(CELLS)


def test_a_task_that_ends_its_process_fails_alone_after_three_tries() -> None:
    def dies(request: Task) -> list[Cell]:
        if CELLS[2] in request.cells:
            raise OSError("gone")
        return list(request.cells)

    worker = MadeUpWorker(dies)
    ledger = run([worker], task(*CELLS))
    assert Counter(ledger.cells) == Counter([*CELLS[:2], *CELLS[3:]])
    assert ledger.failed == {CELLS[2]: "its worker was lost: OSError: gone"}
    assert sum(CELLS[2] in request.cells for request in worker.requests) == TRIES
    assert worker.starts == 1 + TRIES


def test_tries_are_counted_on_where_a_task_is_divided_after_the_first() -> None:
    pair = [cell("a", "one"), cell("a", "two")]

    def dies(request: Task) -> list[Cell]:
        if set(request.cells) & set(pair):
            raise OSError("gone")
        return list(request.cells)

    workers = [MadeUpWorker(dies) for _ in range(2)]
    assert run(workers, task(*pair), task(cell("b"))).failed.keys() == set(pair)
    requests = [request for worker in workers for request in worker.requests]
    assert [sum(cell in request.cells for request in requests) for cell in pair] == [TRIES] * 2


@pytest.mark.parametrize(("error", "starts"), [(EngineError("odd"), 1), (DeviceError("lost"), 2), (MemoryError(), 2)])
def test_only_a_process_that_may_lack_something_is_replaced(error: Exception, starts: int) -> None:
    replies = deque[Any]([error])
    worker = MadeUpWorker(lambda request: replies.popleft() if replies else list(request.cells))
    ledger = run([worker], task(CELLS[0]))
    assert (ledger.cells, ledger.failed, worker.starts) == ([CELLS[0]], {}, starts)


def test_a_worker_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "HANG_SECONDS", 0.0)
    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.01)
    replies = deque[Any]([...])
    worker = MadeUpWorker(lambda request: replies.popleft() if replies else list(request.cells))
    ledger = run([worker], task(CELLS[0]))
    assert (ledger.cells, worker.starts) == ([CELLS[0]], 2)


def test_a_healthy_slow_worker_is_left_alone_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(schedule, "TELL_SECONDS", 0.005)
    futures, ledger = list[Future[Any]](), Ledger()

    class Slow(MadeUpWorker):
        def submit(self, request: Task | None) -> Future[Any]:
            future = super().submit(request)
            if request is not None:
                future = Future()
                futures.append(future)
            return future

    def look() -> None:
        if len(ledger.lines) == 3:
            ledger.lines.append("enough")
            futures[0].set_result([CELLS[0]])

    worker = Slow()
    Schedule([worker], [task(CELLS[0])], ledger, look).run()
    assert (ledger.cells, worker.starts) == ([CELLS[0]], 1)
    assert ledger.lines[0] == f"nothing came for 0 s; waiting for 1 tasks on workers, the first: {CELLS[0]}"


def test_a_worker_that_does_not_start_is_left_alone_and_told_of() -> None:
    broken = MadeUpWorker(opens=lambda: EngineError("no room"))
    ledger = run([broken, MadeUpWorker()], task(*CELLS))
    assert Counter(ledger.cells) == Counter(CELLS)
    assert broken.starts == STARTS
    assert ledger.lines == ["a worker did not start 3 times, and is left alone: no room"]


def test_starts_that_fail_count_in_a_row() -> None:
    openings = deque[Any](2 * [*[EngineError("no room")] * (STARTS - 1), None])
    replies = deque[Any]([DeviceError("lost")])
    worker = MadeUpWorker(lambda request: replies.popleft() if replies else list(request.cells), openings.popleft)
    ledger = run([worker], task(CELLS[0]))
    assert (ledger.cells, worker.starts) == ([CELLS[0]], 2 * STARTS)


def test_a_run_without_any_worker_ends_with_its_error() -> None:
    ledger = Ledger()
    workers = [MadeUpWorker(opens=lambda: EngineError("no room")) for _ in range(2)]
    with pytest.raises(EngineError, match=r"^no worker can run the study: no room$"):
        Schedule(workers, [task(*CELLS)], ledger).run()
    assert (ledger.starts, ledger.lines) == (0, [])


def test_a_worker_that_opens_for_ever_is_not_waited_for() -> None:
    ledger = run([MadeUpWorker(), MadeUpWorker(opens=lambda: ...)], task(*CELLS))
    assert Counter(ledger.cells) == Counter(CELLS)


def test_what_a_computer_raises_is_a_line_that_any_process_can_read() -> None:
    class Computer:
        def open(self) -> None:
            raise RuntimeError("two\nlines")

        def compute(self, request: Any) -> Any:
            raise request

    assert str(answer(Computer(), None)) == "RuntimeError: two lines"
    assert type(answer(Computer(), DeviceError("lost"))) is DeviceError
    assert len(line_of(RuntimeError("x" * 1000))) < 300
