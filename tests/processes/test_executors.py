"""Executors: however a study is spread, its rows are those of a run in one process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_results import python
from polars.testing import assert_frame_equal
from ray_clusters import ray_cluster
from small import Command, ask, make_images, make_model, make_pictures, make_study, rows_of, study_in
from waiting import LIMIT_SECONDS

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.record import record_study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.run import run_study
from bandlens.app.study.shards import Committer, Sharded
from bandlens.core.errors import EngineError
from bandlens.engine.distributed.cluster import RayOptions, connected, import_ray
from bandlens.engine.distributed.executors import Watch
from bandlens.engine.distributed.files import DriverFiles, NodeFiles, PackedSet, kept_files
from bandlens.engine.distributed.ray import RayWorker, run_on
from bandlens.engine.distributed.shards import open_folder
from bandlens.engine.distributed.worker import Computed, Job, Worker, job_of, probe_sources
from bandlens.engine.tasks import Task, tasks_of

COUNT = 48
BLUR = """
from pathlib import Path
from helper import half
SCALE = float(Path(__file__).with_name("scale.txt").read_text())
def blur(images, strength):
    return images * (1 - strength) + half() * SCALE * strength
"""
PROBES = """
lowpass = {cutoff = [0.1, 0.3]}
critical_band = {noise_sd = [0.0, 0.1], frequency = [1, 4]}
blur = {file = "blur.py", uses = ["scale.txt"], strength = 0.5}
pgd_linf = {steps = 1}
"""
CELLS = 2 * 8
RAY = ("--executor", "ray")
ONE_WORKER = pytest.mark.parametrize("worker", [(*RAY, "--workers", "1"), ("--devices", "cpu")], ids=["ray", "devices"])
"""Options of a run with one worker."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executors")
    (folder / "blur.py").write_text(BLUR)
    (folder / "scale.txt").write_text("0.8")
    (folder / "helper.py").write_text("def half():\n    return 0.5\n")
    return study_in(folder, COUNT, PROBES)


@pytest.fixture(scope="module")
def work(study: Path) -> Work:
    return resolve(Study.read(study))


@pytest.fixture(scope="module")
def direct(work: Work) -> Path:
    """The database of a run in one process without tasks."""
    database = work.study.folder / "direct.duckdb"
    summary = run_study(work, database)
    assert (summary.cells, summary.failed) == (CELLS, [])
    return database


@pytest.fixture(scope="module")
def shards(work: Work, direct: Path) -> Path:
    """The shards of a run in one process."""
    folder = work.study.folder / "local.shards"
    database = work.study.folder / "local.duckdb"
    assert run_study(work, database, sharded=Sharded(str(folder))).failed == []
    assert_same(database, direct)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_cluster():
        yield


PARTS = """
    SELECT key, sum(count) AS images, sum(right1) AS right1, sum(right5) AS right5, bool_and(seconds > 0) AS timed,
           any_value(session.batch) AS batch, any_value(device) AS device, any_value(versions)::VARCHAR AS versions
    FROM part JOIN cell ON cell.id = part.cell JOIN session ON session.id = part.session GROUP BY key ORDER BY key
"""


def assert_same(database: Path, direct: Path) -> None:
    """Predictions, sums, sessions and views are those of the direct run."""
    assert_frame_equal(rows_of(database), rows_of(direct))
    assert ask(database, PARTS) == ask(direct, PARTS)
    assert ask(database, "SELECT count(*) FROM prediction") == ask(direct, "SELECT count(*) FROM prediction")
    accuracy = "SELECT * FROM accuracy ORDER BY ALL"
    assert ask(database, accuracy) == ask(direct, accuracy)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


# Rows equal to those of a local run


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["ray", "devices"])
def test_workers_give_the_rows_of_a_local_run(
    work: Work, direct: Path, shards: Path, cluster: None, tmp_path: Path, kind: str, workers: int
) -> None:
    database, folder = tmp_path / "results.duckdb", tmp_path / "shards"
    options = {"ray": RayOptions(workers=workers)} if kind == "ray" else {"devices": ("cpu",) * workers}
    summary = run_study(work, database, sharded=Sharded(str(folder), **options))
    assert (summary.cells, summary.ran, summary.predictions) == (CELLS, CELLS, CELLS * COUNT)
    assert_same(database, direct)
    if workers == 1:
        assert files(folder) == files(shards), "the same task gives the same bytes"


@pytest.mark.parametrize("options", [RAY, ("--devices", "cpu,cpu")], ids=["ray", "devices"])
def test_the_command_line_spreads_a_study(
    command: Command, study: Path, direct: Path, cluster: None, tmp_path: Path, options: tuple[str, ...]
) -> None:
    database = tmp_path / "results.duckdb"
    ran = command("run", study, *options, "--db", database)
    assert ran.code == 0
    assert f"ran {CELLS} of {CELLS} cells" in ran.out
    assert len(ran.out.splitlines()) == 1, "Ray itself says nothing"
    assert_same(database, direct)
    assert files(tmp_path / "results.duckdb.shards")
    assert "nothing to run" in command("run", study, *options, "--db", database).out


def test_a_run_that_was_begun_without_units_is_ended_with_them(work: Work, direct: Path, tmp_path: Path) -> None:
    database = tmp_path / "results.duckdb"

    class Enough(Exception):
        pass

    def interrupted(*_: object) -> None:
        nonlocal commits
        commits += 1
        if commits > 5:
            raise Enough

    commits = 0
    with pytest.MonkeyPatch.context() as patch:
        from bandlens.analysis.database.store import Store

        commit = Store.commit
        patch.setattr(Store, "commit", lambda *arguments: (commit(*arguments), interrupted()))
        with pytest.raises(Enough):
            run_study(work, database, range_seconds=0)
    assert 0 < ask(database, "SELECT count(*) FROM prediction")[0][0] < CELLS * COUNT
    run_study(work, database, sharded=Sharded(str(tmp_path / "shards")))
    assert_frame_equal(rows_of(database), rows_of(direct))


class Stored:
    """The tasks of a study, each computed once, to be delivered in any way."""

    def __init__(self, work: Work, folder: Path, workers: int) -> None:
        self.folder = open_folder(str(folder))
        study = work.study
        job = job_of(study.probes, study.folder, work.image_sets, study.batch, 1, str(folder), work.cells)
        self.tasks = list(tasks_of(work.cells, work.grid, study.batch, workers, lambda *_: True))
        with Worker(job) as worker:
            self.made = [(task, worker.compute(task)) for task in self.tasks]


@pytest.fixture(scope="module")
def stored(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    cheap = replace(work, cells=[cell for cell in work.cells if cell.condition.probe != "pgd_linf"])
    return Stored(cheap, tmp_path_factory.mktemp("stored"), 3)


@pytest.mark.parametrize("every", [0.0, 0.02, 60.0])
@given(data=st.data())
@settings(suppress_health_check=list(HealthCheck), max_examples=4)
def test_in_any_order_and_however_often_units_arrive_each_image_is_stored_once(
    work: Work,
    direct: Path,
    stored: Stored,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    every: float,
) -> None:
    order = data.draw(st.permutations(range(len(stored.made))))
    again = data.draw(st.lists(st.sampled_from(order), max_size=5))
    database = tmp_path_factory.mktemp("order") / "results.duckdb"
    cells = {cell.key: cell for task in stored.tasks for cell in task.cells}
    with open_store(database) as store:
        committer = Committer(store, stored.folder, cells, lambda: record_study(work, store), {}, every=every)
        committer.label = committer.record()  # without what lies in the folder
        for place in (*order, *again):
            committer.accept(*stored.made[place])
        committer.flush()
        assert committer.missing() == []
        assert committer.waiting == []
    expected = rows_of(direct).filter(pl.col("key").is_in(list(cells)))
    assert_frame_equal(rows_of(database), expected)


# Shards that are there are not computed again


def test_shards_that_are_there_are_committed_and_not_computed(
    work: Work, direct: Path, shards: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    database = tmp_path / "again.duckdb"
    run_study(work, database, sharded=Sharded(str(shards)))
    assert_same(database, direct)
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == before


@pytest.mark.parametrize("seed", range(3))
def test_only_what_no_shard_has_is_computed_whatever_the_number_of_workers(
    work: Work, direct: Path, shards: Path, tmp_path: Path, seed: int
) -> None:
    import random

    folder, names = tmp_path / "shards", sorted(path.stem for path in shards.glob("*.parquet"))
    folder.mkdir()
    for name in random.Random(seed).sample(names, len(names) // 2):
        for suffix in ("json", "parquet"):
            (folder / f"{name}.{suffix}").write_bytes((shards / f"{name}.{suffix}").read_bytes())
    kept = files(folder)
    database = tmp_path / "results.duckdb"
    with open_store(database) as store:
        committer = Committer(
            store,
            open_folder(str(folder)),
            {cell.key: cell for cell in work.cells},
            lambda: record_study(work, store),
            {},
        )
        committer.begin()
        lacking = list(tasks_of(work.cells, work.grid, work.study.batch, 3, committer.lacks))
        assert 0 < sum(task.predictions for task in lacking) < CELLS * COUNT
    run_study(work, database, sharded=Sharded(str(folder)))
    assert_frame_equal(rows_of(database), rows_of(direct))
    assert kept.items() <= files(folder).items()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_the_database_is_rebuilt_from_shards(
    command: Command, study: Path, direct: Path, shards: Path, tmp_path: Path
) -> None:
    database = tmp_path / "new.duckdb"
    answer = command("rebuild", study, "--shards", shards, "--db", database)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"study@1: {CELLS * COUNT:,} predictions from {shards}; {CELLS} of {CELLS} cells complete\n"
    assert_same(database, direct)
    again = json.loads(command("rebuild", study, "--shards", shards, "--db", database, "--format", "json").out)
    assert (again["predictions"], again["missing"]) == (0, [])


def test_what_is_left_for_later_is_not_computed_again_and_a_rebuild_commits_it(
    command: Command, study: Path, direct: Path, tmp_path: Path
) -> None:
    database, folder = tmp_path / "results.duckdb", tmp_path / "shards"
    later = ("run", study, "--db", database, "--shards", folder, "--commit", "later")
    answer = command(*later)
    assert answer.code == 0
    assert f"ran {CELLS} of {CELLS} cells, {CELLS * COUNT:,} predictions" in answer.out
    assert answer.out.endswith(f"; next: bandlens rebuild {study} --shards {folder} --db {database}\n")
    assert ask(database, "SELECT count(*) FROM prediction") == [(0,)]
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert command(*later).code == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert command("rebuild", study, "--shards", folder, "--db", database).code == 0
    assert_same(database, direct)


def test_a_rebuild_says_what_is_missing_and_a_run_computes_it(
    command: Command, study: Path, direct: Path, shards: Path, tmp_path: Path
) -> None:
    folder, database = tmp_path / "shards", tmp_path / "new.duckdb"
    folder.mkdir()
    for path in shards.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    first, second, third, *_ = sorted(folder.glob("*.parquet"))
    first.unlink()
    damage(second)
    third.write_bytes(third.read_bytes()[:100])
    answer = command("rebuild", study, "--shards", folder, "--db", database)
    assert answer.code == 0
    assert "missing: " in answer.out
    warnings = answer.err.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith(f"bandlens: warning: {folder}/") and "damaged" in line for line in warnings)
    rebuilt = rows_of(database)
    assert_frame_equal(rebuilt, rows_of(direct).join(rebuilt, on=["key", "image_index"], how="semi"))
    assert len(rebuilt) < CELLS * COUNT
    assert command("run", study, "--shards", folder, "--db", database).code == 0
    assert_frame_equal(rows_of(database), rows_of(direct))


def test_a_rebuild_without_shards_is_one_line(command: Command, study: Path, tmp_path: Path) -> None:
    answer = command("rebuild", study, "--shards", tmp_path / "none", "--db", tmp_path / "new.duckdb")
    assert (answer.code, answer.err) == (
        1, f"bandlens: no results folder {tmp_path / 'none'}; name another folder with --shards\n"
    )  # fmt: skip
    assert not (tmp_path / "new.duckdb").exists()


# Failures


def test_cells_that_fail_are_those_of_a_local_run(command: Command, cluster: None, tmp_path: Path) -> None:
    make_model(tmp_path / "models", "fragile", darkest=0.05)
    make_model(tmp_path / "models", "robust", seed=1)
    make_images(tmp_path / "images.set", make_pictures(60))
    (tmp_path / "wild.py").write_text("def wild(images, level):\n    return images * level\n")
    study = make_study(tmp_path, probes="lowpass = {cutoff = [0.0, 0.5]}\nwild = {file = 'wild.py', level = [1, 9]}")
    answers = [
        command("run", study, "--db", tmp_path / f"{name}.duckdb", *options)
        for name, options in {
            "direct": (),
            "local": ("--shards", tmp_path / "local"),
            "ray": RAY,
            "devices": ("--devices", "cpu,cpu"),
        }.items()
    ]
    assert [answer.code for answer in answers] == [1, 1, 1, 1]
    # A busy machine prints progress besides.
    direct, local, *workers = (re.sub(r"^running: .*\n", "", answer.err, flags=re.MULTILINE) for answer in answers)
    assert direct == local
    # Which of a cell's tasks fails first is the workers' luck.
    number = r"at image \d+"
    for error_lines in workers:
        assert re.sub(number, "", error_lines) == re.sub(number, "", direct)
    failed = f"SELECT key, regexp_replace(error, '{number}', '') FROM cell WHERE error IS NOT NULL ORDER BY key"
    for name in ("local", "ray", "devices"):
        assert_frame_equal(rows_of(tmp_path / f"{name}.duckdb"), rows_of(tmp_path / "direct.duckdb"))
        assert ask(tmp_path / f"{name}.duckdb", failed) == ask(tmp_path / "direct.duckdb", failed)
    plan = command("plan", study, "--db", tmp_path / "ray.duckdb")
    assert (
        "failed when last tried: 3 cells, the first: fragile, images.set, lowpass below 0 cycles/image: logits are"
        in plan.out
    )
    assert (
        len(json.loads(command("plan", study, "--db", tmp_path / "ray.duckdb", "--format", "json").out)["failed"]) == 3
    )


def test_a_worker_of_ray_has_the_priority_of_its_run(cluster: None) -> None:
    ray = import_ray()
    assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)


DEADLY = """
import os, signal, time
from pathlib import Path
def deadly(images, level):
    if level == 2:
        with open(Path(__file__).with_name("deaths"), "a") as file:
            file.write("x")
        os.kill(os.getppid(), signal.SIGKILL)  # the worker
        time.sleep(60)  # this process ends as it finds out that it has no worker any more
    return images
"""


@ONE_WORKER
def test_a_task_that_kills_its_worker_is_set_aside_and_the_rest_goes_on(
    command: Command, workplace: Path, cluster: None, worker: tuple[str, ...]
) -> None:
    (workplace / "deadly.py").write_text(DEADLY)
    study, database = (
        make_study(workplace, probes="lowpass = {cutoff = 0.3}\ndeadly = {file = 'deadly.py', level = 2}"),
        workplace / "results.duckdb",
    )
    answer = command("run", study, *worker, "--db", database)
    assert answer.code == 1
    assert "1 of 3 cells failed, the first: one, images.set, deadly level=2: its worker was lost: " in answer.err
    assert "(images 0 to 7, tried 3 times)" in answer.err
    # The first line says which metrics the study lacks; on a busy machine there are some of progress, too.
    assert len([line for line in answer.err.splitlines() if line.startswith("bandlens: ")]) == 2
    assert (workplace / "deaths").read_text() == "xxx"
    assert ask(database, "SELECT probe, n FROM accuracy ORDER BY ALL") == [("clean", 20), ("lowpass", 20)]
    assert "failed when last tried: 1 cell, the first: one, images.set, deadly level=2" in command(
        "plan", study, "--db", database
    ).out  # fmt: skip


HANGS = """
import os, signal, time
from pathlib import Path
def once(name):
    marker = Path(__file__).with_name(name)
    parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    first = (b"ray::" in parent or b"worker_process" in parent) and not marker.exists()
    if first:
        marker.with_suffix(".part").write_text(str(os.getppid()))
        marker.with_suffix(".part").rename(marker)
    return first
if once("stopped"):
    while not Path(__file__).with_name("heard").exists():
        time.sleep(0.05)
    os.kill(os.getppid(), signal.SIGSTOP)  # the worker
def hangs(images, level):
    if once("hung"):
        time.sleep(3600)
    return images * level
"""
"""Stops its worker as it opens the study, and hangs in its first batch; leaves the worker's process in a file.

First the driver hears a sign of life: a worker that never gave any may be waiting for a machine, and is left for long.
"""

PATIENCE = 600
"""Seconds that a task may go without progress, of a clock that leaps."""


def state_left_in(path: Path) -> str:
    """The state of the process that is named in a file, such as T for stopped; empty where either is not there."""
    try:
        return Path(f"/proc/{path.read_text()}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):  # a process may end while its state is read
        return ""


@ONE_WORKER
def test_a_worker_that_is_stopped_as_it_opens_and_a_task_that_hangs_are_replaced(
    command: Command, workplace: Path, cluster: None, worker: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    initialize, hears, fault = Watch.__post_init__, Watch.hears, Watch.fault
    stopped, hung = workplace / "stopped", workplace / "hung"
    leaps, replaced = 0, False

    def initialize_with_clock(watch: Watch) -> None:
        watch.clock = lambda: time.monotonic() + 2 * PATIENCE * leaps
        initialize(watch)

    def hears_and_tells(watch: Watch, *signs: Any) -> None:
        """A run's patience passes before each sign of life of a worker whose task hangs."""
        nonlocal leaps
        leaps += state_left_in(hung) not in ("", "Z")
        hears(watch, *signs)
        (workplace / "heard").touch()

    def fault_of_stopped(watch: Watch, worker: Any) -> str | None:
        """A run's patience passes at each look at a worker that is stopped, until it is to be replaced."""
        nonlocal leaps, replaced
        is_stopped = not replaced and state_left_in(stopped) == "T"
        leaps += is_stopped
        answer = fault(watch, worker)
        replaced |= is_stopped and answer is not None
        return answer

    monkeypatch.setattr(Watch, "__post_init__", initialize_with_clock)
    monkeypatch.setattr(Watch, "hears", hears_and_tells)
    monkeypatch.setattr(Watch, "fault", fault_of_stopped)
    (workplace / "hangs.py").write_text(HANGS)
    study = make_study(workplace, probes="lowpass = {cutoff = 0.3}\nhangs = {file = 'hangs.py', level = 0.5}")
    options = (*worker, "--task-timeout", str(PATIENCE), "--format", "json")
    answer = command("run", study, "--db", workplace / "results.duckdb", *options)
    assert (answer.code, json.loads(answer.out)["failed"]) == (0, [])
    assert stopped.exists()
    assert hung.exists()
    assert command("run", study, "--db", workplace / "direct.duckdb").code == 0
    assert_frame_equal(rows_of(workplace / "results.duckdb"), rows_of(workplace / "direct.duckdb"))


HUNGRY = """
from pathlib import Path
import numpy as np
def hungry(images, level):
    marker = Path(__file__).with_name("hungry")
    if not marker.exists():
        marker.touch()
        np.ones(1 << 46, np.uint8)
    return images.copy()
"""
"""Asks for 64 TiB, once."""


@ONE_WORKER
def test_a_worker_without_memory_loses_and_falsifies_nothing(
    command: Command, workplace: Path, cluster: None, worker: tuple[str, ...]
) -> None:
    (workplace / "hungry.py").write_text(HUNGRY)
    study = make_study(workplace, probes="lowpass = {cutoff = 0.3}\nhungry = {file = 'hungry.py', level = 2}")
    database = workplace / "results.duckdb"
    options = (*worker, "--db", database)
    first = command("run", study, *options)
    assert first.code == 1
    assert "hungry level=2: " in first.err
    assert "Unable to allocate 64.0 TiB" in first.err
    # The first line says which metrics the study lacks; on a busy machine there are some of progress, too.
    assert len([line for line in first.err.splitlines() if line.startswith("bandlens: ")]) == 2
    stored = rows_of(database)
    assert command("run", study, *options).code == 0
    direct = workplace / "direct.duckdb"
    assert command("run", study, "--db", direct).code == 0
    assert_frame_equal(rows_of(database), rows_of(direct))
    assert_frame_equal(stored, rows_of(direct).join(stored, on=["key", "image_index"], how="semi"))


def test_a_worker_that_is_left_alone_is_told_of_and_the_others_go_on(
    work: Work, cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    message_file = tmp_path / "told"

    class OneFails(RayWorker):
        """The first to start always fails; the other computes once that has been told."""

        def ready(self) -> int:
            import ray

            actor = ray.get_runtime_context().get_actor_id()
            with suppress(FileExistsError), (tmp_path / "first").open("x") as first:
                first.write(actor)
            if (tmp_path / "first").read_text() in (actor, ""):
                raise EngineError("no room for it")
            return super().ready()

        def compute(self, task: Task) -> Computed:
            end = time.monotonic() + 60
            while not message_file.exists() and time.monotonic() < end:
                time.sleep(0.05)
            return super().compute(task)

    class Told(Committer):
        def tell(self, text: str) -> None:
            message_file.write_text(text)

    monkeypatch.setattr("bandlens.engine.distributed.ray.RayWorker", OneFails)
    study, folder = work.study, str(tmp_path / "shards")
    cell = next(cell for cell in work.cells if cell.condition.probe == "clean")
    job = job_of(study.probes, study.folder, work.image_sets, study.batch, 1, folder, [cell])
    with connected(RayOptions(workers=2), "onnxruntime", 1) as ray, open_store(tmp_path / "results.duckdb") as store:
        committer = Told(store, open_folder(folder), {cell.key: cell}, lambda: record_study(work, store), {})
        run_on(ray, job, iter([Task((cell,), 0, COUNT)]), committer, {})
        assert (committer.missing(), committer.lost) == ([], {})
    assert message_file.read_text() == "a worker did not start 3 times, and is left alone: no room for it"


@ONE_WORKER
def test_a_study_that_no_worker_can_open_is_not_begun(
    command: Command, workplace: Path, cluster: None, worker: tuple[str, ...]
) -> None:
    database = workplace / "results.duckdb"
    study = make_study(workplace)
    (workplace / "models" / "one.onnx").write_bytes(b"0" * (workplace / "models" / "one.onnx").stat().st_size)
    answer = command("run", study, *worker, "--db", database)
    assert answer.code == 1
    assert answer.err.startswith("bandlens: no worker can run the study: ")
    reason = "the driver's file is another than the one it names" if "ray" in worker else "one.onnx has sha256 "
    assert reason in answer.err
    assert len(answer.err.splitlines()) == 1
    assert ask(database, "SELECT count(*) FROM study") == [(0,)]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--executor", "rya"], 2, "unknown executor 'rya'; did you mean ray?"),
        (["--workers", "2"], 2, "--workers is for --executor ray; the local executor is this process"),
        (["--address", "auto"], 2, "--address is for --executor ray"),
        (["--commit", "later"], 2, "--commit later leaves shards; name a folder for them with --shards"),
        (["--commit", "lter", "--shards", "x"], 2, "unknown time of --commit 'lter'; did you mean later?"),
        (["--gpus-per-worker", "1"], 2, "--gpus-per-worker is for --executor ray"),
        (["--task-timeout", "60"], 2, "--task-timeout is for --executor ray"),
        (["--devices", "cpu", "--workers", "2"], 2, "--workers is for --executor ray"),
        (["--devices", "0,1", "--executor", "ray"], 2, "--devices is for the local executor; Ray puts a worker on"),
        (["--devices", "0,1"], 2, "--devices 0,1: engine onnxruntime runs on the CPU; cpu,cpu gives it two processes"),
        (["--devices", ""], 2, "--devices : engine onnxruntime runs on the CPU"),
        (["--shards", "nonsense://x"], 1, "no results folder nonsense://x: "),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    command: Command, workplace: Path, options: list[str], code: int, words: str
) -> None:
    answer = command("run", make_study(workplace), "--db", workplace / "results.duckdb", *options)
    assert answer.code == code
    assert answer.err.startswith(f"bandlens: {words}")
    assert len(answer.err.splitlines()) == 1


WITHOUT = """
import sys
{before}
sys.argv = ["bandlens", "run", "{study}", "--executor", "ray", "--db", "{database}", *{options}]
from bandlens.app.cli import main
main()
"""


@pytest.mark.parametrize(
    ("before", "options", "words"),
    [
        ("sys.modules['ray'] = None", [], "bandlens: the ray executor needs Ray: pip install 'bandlens[ray]'"),
        (
            "",
            ["--address", "127.0.0.1:1"],
            "bandlens: cannot reach a Ray cluster at 127.0.0.1:1: [Errno 111] Connection",
        ),
    ],
    ids=["no Ray", "no cluster"],
)
def test_a_ray_that_is_not_there_is_one_line(workplace: Path, before: str, options: list[str], words: str) -> None:
    study, database = make_study(workplace), workplace / "results.duckdb"
    code = WITHOUT.format(before=before, study=study, database=database, options=options)
    result = subprocess.run(python(code), capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(words)
    assert len(result.stderr.splitlines()) == 1


def test_a_cluster_without_room_for_a_worker_is_one_line(command: Command, workplace: Path, cluster: None) -> None:
    answer = command("run", make_study(workplace, threads=64), "--executor", "ray", "--db", workplace / "r.duckdb")
    assert answer.code == 2
    assert answer.err == (
        "bandlens: a worker takes 64 CPUs, and no node of the Ray cluster has them; set `threads` in the study\n"
    )


# Files on the nodes


def elsewhere(work: Work, shards: Path) -> tuple[Job, Work]:
    """The job and cells as a machine sees them that has none of the driver's folders."""
    study = work.study
    job = job_of(study.probes, study.folder, work.image_sets, study.batch, 1, str(shards), work.cells)
    nowhere = Path("/nowhere")

    def moved(cell):
        model = replace(cell.model, path=nowhere / cell.model.path.name)
        return replace(cell, variant=replace(cell.variant, model=model, path=model.path))

    cells = [moved(cell) for cell in work.cells]
    sets = {digest: packed._replace(folder=nowhere / "images.set") for digest, packed in job.image_sets.items()}
    variants = tuple(dict.fromkeys(cell.variant for cell in cells if cell.condition.probe != "pgd_linf"))
    return replace(job, folder=nowhere, image_sets=sets, variants=variants), replace(work, cells=cells)


class Counting(DriverFiles):
    reads = 0

    def read(self, digest: str, name: str, offset: int) -> bytes:
        self.reads += 1
        return super().read(digest, name, offset)


def kept(work: Work):
    probes = list(probe_sources(work.study.probes, work.study.folder).values())
    return kept_files(work.image_sets, list({cell.variant for cell in work.cells}), probes)


def test_what_a_machine_lacks_is_fetched_once(
    work: Work, stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path / "home"))
    source = Counting(kept(work))
    job, moved_work = elsewhere(work, tmp_path / "shards")
    for _ in range(2):
        with Worker(job, source) as worker:
            for task in stored.tasks[:3]:
                cells = [cell for cell in moved_work.cells if cell.key in {task_cell.key for task_cell in task.cells}]
                computed = worker.compute(Task(tuple(cells), task.first, task.last))
                assert computed.failed == ()
        assert source.reads == 2 + 3 + 3, "two models, three files of a set, a probe, its module and what it uses"
    ours = files(tmp_path / "shards")
    assert ours.items() <= files(Path(stored.folder.path)).items()
    assert len(ours) == 3


def test_what_changed_on_the_way_is_not_used(work: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path / "home"))

    class Noisy(DriverFiles):
        def read(self, digest: str, name: str, offset: int) -> bytes:
            content = bytearray(super().read(digest, name, offset))
            content[len(content) // 2] ^= 1
            return bytes(content)

    _, moved_work = elsewhere(work, tmp_path)
    with pytest.raises(EngineError, match="is another than the one it names"):
        NodeFiles(Noisy(kept(work))).variant(moved_work.cells[0].variant)
    assert not [path for path in (tmp_path / "home" / "fetched").iterdir() if path.is_dir()]


def test_a_set_that_cannot_be_sent_says_what_to_do(work: Work, tmp_path: Path) -> None:
    digest = work.image_sets[0].info.digest
    with pytest.raises(EngineError, match="put it on storage that all machines share"):
        NodeFiles(DriverFiles({})).images(PackedSet(tmp_path / "images.set", digest, None))


def test_ray_workers_fetch_what_their_node_lacks(
    work: Work, direct: Path, cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job, moved_work = elsewhere(work, tmp_path / "shards")
    with connected(RayOptions(workers=2), "onnxruntime", 1) as ray, open_store(tmp_path / "results.duckdb") as store:
        cells = {cell.key: cell for cell in moved_work.cells}
        committer = Committer(store, open_folder(job.shards), cells, lambda: record_study(work, store), {})
        tasks = tasks_of(moved_work.cells, work.grid, work.study.batch, 2, committer.lacks)
        at_home = replace(ray, environment={"BANDLENS_HOME": str(tmp_path / "home")})
        run_on(at_home, job, tasks, committer, kept(work))
        assert (committer.missing(), committer.lost) == ([], {})
    assert_frame_equal(rows_of(tmp_path / "results.duckdb"), rows_of(direct))
    fetched = [path for path in (tmp_path / "home" / "fetched").iterdir() if path.is_dir()]
    assert len(fetched) == 2 + 1 + 1


def test_independent_runs_of_single_checkpoints_make_one_study(
    command: Command, study: Path, direct: Path, tmp_path: Path
) -> None:
    """The jobs of an array know nothing of each other."""
    folder = tmp_path / "shards"
    for name in ("one", "two"):
        alone = study.with_name(f"{name}.toml")
        alone.write_text(study.read_text().replace('checkpoints = ["*"]', f'checkpoints = ["{name}"]'))
        assert command("run", alone, "--shards", folder, "--db", tmp_path / f"{name}.duckdb").code == 0
    database = tmp_path / "all.duckdb"
    assert f"{CELLS} of {CELLS} cells" in command("rebuild", study, "--shards", folder, "--db", database).out
    assert_same(database, direct)
