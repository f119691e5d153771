"""Faults under seeds: runs that are killed, starved and lied to, and what must hold afterwards.

`faults.py --local 200 --ray 40` is a long campaign; tests strike a few.
Whatever happens in between, the database never holds a row that an undisturbed run does not, nor one twice; nothing
that was committed goes away; and one undisturbed run at the end makes it equal to the reference.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # for a run without pytest
from campaigns import run_campaign
from interrupts import INTERRUPTED
from ray_clusters import MEMORY
from small import ask, make_study, rows_of, study_in
from waiting import LIMIT_SECONDS

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
from bandlens.app.study.workers import Workers
from bandlens.core.errors import BandlensError
from bandlens.engine.cluster import import_ray

COUNT = 64
SLOW = """
import time
def slow(images, seconds):
    time.sleep(seconds)
    return images
"""
PROBES = """
lowpass = {cutoff = [0.1, 0.3]}
slow = {file = 'slow.py', seconds = SECONDS}
"""
CELLS = 8
CRASHES = """
import ctypes
def crashes(images, at, index):
    return ctypes.string_at(0) if index == at else images
"""


@dataclass(frozen=True)
class Bench:
    """A study, and what an undisturbed run of it stores."""

    study: Path
    crashing: Path
    """The same with a probe more, which crashes in native code at one image."""
    reference: pl.DataFrame

    def run(self, database: Path, workers: Workers | None) -> None:
        run_study(resolve(Study.read(self.study)), database, workers=workers)

    def check(self, database: Path) -> int:
        """Compare the stored rows with the reference, each row once; gives their number."""
        if not database.exists():
            return 0
        with_parts = (
            "SELECT key, image_index, predicted, label_rank, confidence FROM prediction JOIN cell ON cell.id = cell"
        )
        stored = pl.DataFrame(ask(database, f"{with_parts} ORDER BY ALL"), schema=self.reference.schema, orient="row")
        assert ask(database, "SELECT coalesce(sum(count), 0) FROM part") == [(len(stored),)]
        # The probe that crashes has the rows from before its crash.
        rows = stored.join(self.reference, on="key", how="semi", maintain_order="left")
        assert_frame_equal(
            rows, self.reference.join(rows, on=["key", "image_index"], how="semi", maintain_order="left")
        )
        return len(rows)

    def finish(self, database: Path, workers: Workers | None) -> None:
        """An undisturbed run completes the database."""
        self.run(database, workers)
        assert_frame_equal(rows_of(database), self.reference)
        assert self.check(database) == CELLS * COUNT


def bench(folder: Path, seconds: float = 0.01) -> Bench:
    """A study of 8 cells and 64 images, with a probe that takes so many seconds for each of 8 batches."""
    folder.mkdir(exist_ok=True)
    (folder / "slow.py").write_text(SLOW)
    probes = PROBES.replace("SECONDS", str(seconds))
    study = study_in(folder, COUNT, probes, size=32)
    (folder / "crashes.py").write_text(CRASHES)
    crashes = f"crashes = {{file = 'crashes.py', at = {COUNT // 2}}}"
    crashing = make_study(folder, name="crashing", probes=probes + crashes)
    database = folder / "reference.duckdb"
    run_study(resolve(Study.read(study)), database)
    return Bench(study, crashing, rows_of(database))


# A process that strikes itself


PART_SECONDS = 0.5
"""Seconds after which what was computed is stored, in place of a minute."""
Place = str
PLACES = ("in the middle of a transaction", "before a commit", "after a commit")


def arm(place: Place, number: int) -> None:
    """Kill this process the n-th time that it gets to the place."""
    from bandlens.analysis.database.store import Store

    inserts, remaining = place == PLACES[0], number
    name = "_load" if inserts else "execute"
    original = getattr(Store, name)

    def patched(store: Store, sql: str, *arguments: Any) -> Any:
        nonlocal remaining
        is_place = sql.startswith("INSERT INTO prediction") if inserts else sql == "COMMIT"
        remaining -= is_place
        is_struck = is_place and remaining == 0
        if is_struck and place != PLACES[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(store, sql, *arguments)
        if is_struck:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(Store, name, patched)


def _run(
    study: Path, database: Path, workers: Workers | None, place: Place | None, number: int, room: int | None
) -> None:
    """The run has a process of its own; exit status 1 is one of bandlens's errors."""
    from bandlens.engine import cluster, schedule

    schedule.HANG_SECONDS = schedule.OPEN_SECONDS = cluster.ANSWER_SECONDS = PATIENCE
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - to the end of the process
    if room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    if place:
        arm(place, number)
    try:
        run_study(resolve(Study.read(study)), database, PART_SECONDS, workers=workers).raise_failures()
    except BandlensError as error:
        sys.exit(1 if "\n" not in str(error) else 2)


def start(*arguments: Any) -> Any:
    """`_run` in a process that has import_ray everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults", "bandlens.app.study.runner", "onnxruntime", "ray"])
    process = context.Process(target=_run, args=arguments, daemon=True)
    process.start()
    return process


ENDINGS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGINT twice")


def told_to_end(words: Sequence[str | Path], how: str, moments: random.Random) -> bool:
    """Send a signal to a command at a random moment; gives whether that ended it, which it then does in one line."""
    number = signal.Signals[how.split()[0]]
    command = [sys.executable, "-P", "-m", "bandlens", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not _listens(process.pid):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 2))
        process.send_signal(number)
        if how.endswith("twice"):
            time.sleep(moments.uniform(0, 0.5))
            process.send_signal(number)
        _, error_text = process.communicate(timeout=LIMIT_SECONDS)
    if process.returncode == 0:
        return False
    assert process.returncode == 128 + number, (process.returncode, error_text)
    lines = [line for line in error_text.splitlines() if INTERRUPTED.fullmatch(line)]
    assert lines == error_text.splitlines()[-1:], error_text
    assert "Traceback" not in error_text
    return True


def _listens(pid: int) -> bool:
    """Whether a process has a handler for SIGHUP, the last that bandlens sets."""
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(mask, 16) >> (signal.SIGHUP - 1) & 1)


def strike_local(bench: Bench, folder: Path, seed: int, counts: Counter[str]) -> None:
    """A few faults of runs in one process, or on workers of this machine, then an undisturbed run."""
    moments = random.Random(seed)
    database, earlier_rows = folder / "results.duckdb", 0

    def how() -> Workers | None:
        return moments.choice((None, Workers(("cpu",)), Workers(("cpu", "cpu"))))

    for _ in range(moments.randint(2, 4)):
        fault = moments.choice(("place", "place", "moment", "signal", "worker", "crash", "room"))
        if fault == "place":
            place = moments.choice(PLACES)
            process = start(bench.study, database, how(), place, moments.randint(1, 12), None)
            process.join(LIMIT_SECONDS)
            if process.exitcode == -signal.SIGKILL:
                counts[f"killed {place}"] += 1
        elif fault == "moment":
            process = start(bench.study, database, how(), None, 0, None)
            time.sleep(moments.uniform(0.05, 1.6))
            if process.is_alive():
                process.kill()
                counts["killed at a random moment"] += 1
            process.join(LIMIT_SECONDS)
        elif fault == "signal":
            ending = moments.choice(ENDINGS)
            devices = moments.choice(([], ["--devices", "cpu,cpu"]))
            counts[f"told to end by {ending}"] += told_to_end(
                ["run", bench.study, "--db", database, *devices], ending, moments
            )
        elif fault == "worker":
            process = start(bench.study, database, Workers(("cpu", "cpu")), None, 0, None)
            for _ in range(moments.randint(1, 2)):
                time.sleep(moments.uniform(0.5, 2))
                if process.is_alive() and (pids := children(process.pid)):
                    with suppress(ProcessLookupError):
                        os.kill(moments.choice(pids), signal.SIGKILL)
                    counts["worker killed"] += 1
            process.join(LIMIT_SECONDS)
        elif fault == "crash":
            process = start(bench.crashing, database, Workers(("cpu",)), None, 0, None)
            process.join(LIMIT_SECONDS)
            assert process.exitcode == 1, "a probe that crashes fails its cells, with one line"
            counts["probe that crashed in native code"] += 1
        else:
            process = start(bench.study, database, how(), None, 0, moments.randint(1, 60) * 1000)
            process.join(LIMIT_SECONDS)
            counts["no room to write"] += process.exitcode == 1
        if fault in ("place", "moment", "room", "worker"):
            assert process.exitcode in (0, 1, -signal.SIGKILL), "a run ends well, with one line, or killed"
        rows = bench.check(database)
        assert rows >= earlier_rows, "what was committed stays"
        earlier_rows = rows
    bench.finish(database, how())


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


# Ray


@dataclass(frozen=True)
class Nodes:
    """A cluster whose head has no room for workers, and two nodes with one each."""

    cluster: Any

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def raylets(self) -> dict[int, Any]:
        """Process -> node."""
        return {node.all_processes["raylet"][0].process.pid: node for node in self.cluster.worker_nodes}

    def workers(self) -> list[int]:
        """The processes of actors that compute."""
        parents, pids = self.raylets(), []
        for entry in Path("/proc").iterdir():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) if entry.name.isdigit() else 0
                if parent in parents and (entry / "cmdline").read_bytes().startswith(b"ray::Actor"):
                    pids.append(int(entry.name))
            except OSError:
                continue
        return sorted(pids)

    @property
    def control(self) -> int:
        """The process that knows of all nodes (gcs_server)."""
        return int(self.cluster.head_node.all_processes["gcs_server"][0].process.pid)

    def add(self) -> None:
        self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

    def lose_one(self, moments: random.Random, number: signal.Signals) -> None:
        """Kill the raylet of a node, or stop it until the others have given it up, and start another node."""
        pid = moments.choice(sorted(self.raylets()))
        node = self.raylets()[pid]
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(4)
        self.cluster.remove_node(node, allow_graceful=False)
        self.add()


@contextmanager
def nodes() -> Iterator[Nodes]:
    import_ray()
    from ray._common.utils import get_default_system_temp_dir
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray")
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "_system_config": quick, "temp_dir": folder}
    # Nobody reads what these would send: the logs of workers, and requests for more machines.
    head |= {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    # Ray notes its newest cluster there, and does not make the folder.
    (Path(get_default_system_temp_dir()) / "ray").mkdir(exist_ok=True)
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray_nodes = Nodes(cluster)
    try:
        for _ in range(2):
            ray_nodes.add()
        yield ray_nodes
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


SLOWLY = 0.2
"""Seconds of a batch that leave time to strike: killing a worker takes longer than the work of a small model."""
PATIENCE = 15.0
"""Seconds that a worker may go without an answer: more than one of a busy machine takes to open its sessions."""
SIGNALS = {
    "worker killed": signal.SIGKILL,
    "worker stopped": signal.SIGSTOP,
    "node killed": signal.SIGKILL,
    "node stopped": signal.SIGSTOP,
}
HALTS = {"worker halted": PATIENCE, "control halted": 5.0}
"""Processes that are stopped for some seconds -> the largest number of them."""
KINDS = ("worker killed", "worker killed", "driver killed", *SIGNALS, *HALTS)


def strike_ray(
    bench: Bench, folder: Path, seed: int, ray_nodes: Nodes, counts: Counter[str], kinds: Sequence[str] = KINDS
) -> None:
    """A run whose workers, nodes and driver are killed or stopped; then one that is left alone."""
    moments = random.Random(seed)
    database = folder / "results.duckdb"
    process = start(bench.study, database, Workers(address=ray_nodes.address), None, 0, None)
    deadline = time.monotonic() + LIMIT_SECONDS
    while process.is_alive() and not ray_nodes.workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(moments.randint(1, 4)):
        time.sleep(moments.uniform(0, 3))
        if not process.is_alive():
            break
        fault = moments.choice(kinds)
        pids = [ray_nodes.control] if fault == "control halted" else ray_nodes.workers()
        if fault.startswith("node"):
            ray_nodes.lose_one(moments, SIGNALS[fault])
        elif fault == "driver killed":
            process.kill()
        elif not pids:
            continue
        elif fault in HALTS:
            halt(moments.choice(pids), moments.uniform(1, HALTS[fault]))
        else:
            with suppress(ProcessLookupError):
                os.kill(moments.choice(pids), SIGNALS[fault])
        counts[f"Ray: {fault}"] += 1
    process.join(LIMIT_SECONDS)
    assert not process.is_alive(), "a disturbed run ends"
    bench.check(database)
    bench.finish(database, None)


FOR_GOOD = ("gcs_server", "raylet")
"""Processes of the head, which has the driver."""


def strike_for_good(bench: Bench, folder: Path, seed: int, name: str, counts: Counter[str]) -> None:
    """A run on a cluster of its own, a process of which is stopped and stays so; then one that is left alone."""
    moments = random.Random(seed)
    database = folder / "results.duckdb"
    with nodes() as ray_nodes:
        pid = ray_nodes.cluster.head_node.all_processes[name][0].process.pid
        process = start(bench.study, database, Workers(address=ray_nodes.address), None, 0, None)
        time.sleep(moments.uniform(0, 8))
        os.kill(pid, signal.SIGSTOP)
        counts[f"Ray: {name} of the driver's node stopped for good"] += process.is_alive()
        process.join(LIMIT_SECONDS)
        assert process.exitcode in (0, 1), "it ends by itself, well or with one line"
        os.kill(pid, signal.SIGKILL)
    bench.check(database)
    bench.finish(database, None)


def halt(pid: int, seconds: float) -> None:
    """Stop a process for so long."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)


# The campaign


def campaign(local: int, ray: int, seed: int) -> Counter[str]:
    """Rounds of faults until that many have been struck on each executor."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        base, slow = bench(Path(scratch) / "bench"), bench(Path(scratch) / "slow", SLOWLY)

        def rounds(target: int, prefix: str, strike: Callable[[Path, int], None]) -> None:
            number = seed
            while sum(count for name, count in counts.items() if name.startswith("Ray") == bool(prefix)) < target:
                folder = Path(scratch) / f"{prefix}{number}"
                folder.mkdir()
                strike(folder, number)
                shutil.rmtree(folder)
                number += 1

        rounds(local, "", lambda folder, number: strike_local(base, folder, number, counts))
        if ray:
            with nodes() as ray_nodes:

                def strike(folder: Path, number: int) -> None:
                    if number % 4 == 1:
                        strike_for_good(slow, folder, number, FOR_GOOD[number // 4 % 2], counts)
                    else:
                        strike_ray(slow, folder, number, ray_nodes, counts)

                rounds(ray, "ray", strike)
    return counts


def main() -> None:
    run_campaign(__doc__, campaign, {"local": (20, "faults of the local executor"), "ray": (5, "faults of Ray")})


if __name__ == "__main__":
    main()
