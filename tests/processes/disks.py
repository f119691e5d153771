"""A disk that loses power, fails and kills, under seeds, and what must hold of a results database afterwards.

`disks.py --power 5000 --commands 500` is a long campaign. disk.c stands between commands
and the disk. Power is lost after every change that it saw, in one of many ways: what was synced is there, and of the
rest nothing, all or a part. A change that is struck fails, as do all that follow, or the process is killed there.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # for a run without pytest
from campaigns import run_campaign
from faults import Bench, bench
from made_up_results import python
from required import miss
from small import ask
from waiting import LIMIT_SECONDS

SOURCE = Path(__file__).parents[1] / "support" / "disk.c"
HEAD = struct.Struct("<cQqIII")
PAGE = 4096
ACKNOWLEDGED = "/acknowledged"
"""The file that gets the number of stored predictions after every commit: the run knows of these."""
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def compile_disk(folder: Path) -> Path:
    """The library that is preloaded; the test is skipped without gcc, unless BANDLENS_REQUIRE names it."""
    if shutil.which("gcc") is None:
        miss("gcc", "no gcc, which makes the stand-in for a disk")
    library = folder / "disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, SOURCE, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Change:
    """One change of the disk: C a file is made, W written, T cut to a length, S synced, and R, L, U, D of names."""

    kind: str
    file: int
    offset: int
    path: str
    target: str
    data: bytes


def read_log(log: Path) -> list[Change]:
    content, changes, at = log.read_bytes(), list[Change](), 0
    while at < len(content):
        kind, file, offset, *sizes = HEAD.unpack_from(content, at)
        at += HEAD.size
        texts = list[bytes]()
        for size in sizes[: 3 if kind == b"W" else 2]:
            texts.append(content[at : at + size])
            at += size
        path, target, data = (*texts, b"")[:3]
        changes.append(Change(kind.decode(), file, offset, path.decode(), target.decode(), data))
    return changes


@dataclass
class File:
    """The changes of one file, and how much of it is certain to be on the disk."""

    changes: list[Change] = field(default_factory=list)
    synced: int = 0

    def content(self, random: Random, survival: float) -> bytes:
        """A content after a loss of power: what follows the last sync survives with this probability, page by page.

        Lengths are kept in order, as file systems with a journal do: one that is lost takes what follows along.
        """
        content = bytearray()
        for number, change in enumerate(self.changes):
            certain = number < self.synced
            if not certain and random.random() > survival**0.25:
                break
            if change.kind == "T":
                del content[change.offset :]
                content.extend(bytes(change.offset - len(content)))
                continue
            content.extend(bytes(max(0, change.offset + len(change.data) - len(content))))
            for start in range(0, len(change.data), PAGE):
                if certain or random.random() < survival:
                    page = change.data[start : start + PAGE]
                    content[change.offset + start : change.offset + start + len(page)] = page
        return bytes(content)


def lose_power(changes: list[Change], random: Random, survival: float) -> dict[str, bytes]:
    """Path -> content of the files that are on the disk when power is lost after these changes.

    Names change in order. Those are certain that stand in a synced folder, or belong to a file that was synced.
    """
    files, numbers, names, certain = list[File](), dict[int, int](), list[Change](), 0
    positions = dict[int, int]()
    for change in changes:
        if change.kind == "C":
            numbers[change.file] = len(files)  # the file system gives the number of a removed file again
            positions[change.file] = len(names) + 1
            names.append(Change("C", len(files), 0, change.path, "", b""))
            files.append(File())
        elif change.kind == "S" and change.file in numbers:
            file = files[numbers[change.file]]
            file.synced, certain = len(file.changes), max(certain, positions[change.file])
        elif change.kind == "S":
            inside = [k for k, name in enumerate(names, 1) if change.path in (_folder(name.path), _folder(name.target))]
            certain = max(certain, *inside, 0)
        elif change.kind in "WT":
            if change.file in numbers:
                files[numbers[change.file]].changes.append(change)
        else:
            names.append(change)
    survivors = len(names) if survival == 1 else certain if survival == 0 else random.randint(certain, len(names))
    entries = dict[str, int]()
    for name in names[:survivors]:
        if name.kind == "C":
            entries[name.path] = name.file
        elif name.kind == "L":
            entries[name.target] = entries[name.path]
        elif name.kind == "U":
            entries.pop(name.path, None)
        elif name.kind == "R":
            inner = [path for path in entries if path == name.path or path.startswith(f"{name.path}/")]
            for path in inner:
                entries[name.target + path.removeprefix(name.path)] = entries.pop(path)
    contents = {number: files[number].content(random, survival) for number in set(entries.values())}
    return {path: contents[number] for path, number in entries.items()}


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


RUN = f"""
import os, sys
from pathlib import Path
from bandlens.analysis.database.store import Store
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
study, database, commits = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
execute, acknowledged = Store.execute, database.with_name("{ACKNOWLEDGED[1:]}")
def executed(self, sql, *arguments):
    global commits
    rows = execute(self, sql, *arguments)
    if sql == "COMMIT":
        count = self.frame("SELECT coalesce(sum(count), 0)::BIGINT FROM part").item()
        with acknowledged.open("ab") as file:
            file.write(count.to_bytes(8, "little"))
        commits -= 1
        if not commits:
            os._exit(0)
    return rows
Store.execute = executed
run_study(resolve(Study.read(study)), database, range_seconds=0.0)
"""


def disk_environment(library: Path, root: Path, **variables: object) -> dict[str, str]:
    """The environment of a command below whose folder `root` the library stands in for the disk."""
    disk_variables = {f"DISK_{name}": str(value) for name, value in {"ROOT": root, **variables}.items()}
    return os.environ | {"LD_PRELOAD": str(library)} | disk_variables


def record_runs(base: Bench, library: Path, folder: Path) -> list[Change]:
    """All changes by a run that ends after some commits, and one that completes it."""
    root, log = folder / "root", folder / "log"
    root.mkdir(parents=True)
    database = root / "results.duckdb"
    environment = disk_environment(library, root, LOG=log)
    for command in (
        python(RUN, base.study, database, 6),
        python(RUN, base.study, database, 0),
    ):
        subprocess.run(command, env=environment, check=True, timeout=LIMIT_SECONDS)
    changes = read_log(log)
    files = lose_power(changes, Random(0), survival=1)
    assert files["/results.duckdb"] == database.read_bytes(), "the library saw every change"
    return changes


def acknowledged_by(changes: list[Change]) -> int:
    """The number of predictions that the last commit before the end of the changes made safe."""
    files = {change.file for change in changes if change.kind == "C" and change.path == ACKNOWLEDGED}
    counts = (change.data for change in reversed(changes) if change.kind == "W" and change.file in files)
    return int.from_bytes(next(counts, b""), "little")


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    for path, content in contents.items():
        file = folder / path[1:]
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(content)


def strike_power(base: Bench, recorded: list[Change], folder: Path, seed: int) -> str:
    """Lose power at a random moment; what was committed is there, and the next run completes it."""
    random = Random(seed)
    changes = recorded[: random.randint(0, len(recorded))]
    survival = random.choice((0.0, 0.5, 0.9, 1.0))
    write_files(folder, lose_power(changes, random, survival))
    database = folder / "results.duckdb"
    assert base.check(database) >= acknowledged_by(changes), f"seed {seed}: what was committed stays"
    if random.random() < 0.25:
        base.finish(database, None)
    return f"power lost, {survival:.0%} of what was not synced survived"


# Commands whose changes of the disk are struck


IMPORTED = "file_name,predicted_class,predicted_probability\na,1,0.9\nb,1,0.8\nc,3,0.7\nd,4,0.9\n"
LABELS = "file_name,label\na,1\nb,1\nc,3\nd,4\n"
FACTS = (
    "SELECT name, version, digest FROM study",
    "SELECT key, image_index, predicted, label_rank, confidence FROM prediction JOIN cell ON cell.id = cell",
    "SELECT key, sum(right1), sum(right5) FROM part JOIN cell ON cell.id = cell WHERE complete GROUP BY key",
    "SELECT study, checkpoint, image_set, metric, value, low, high, state FROM metric",
)
"""Read the content of a database, without times and ids; a cell that was begun says nothing until it is complete."""


def steps_of(study: Path, folder: Path) -> dict[str, list[str | Path]]:
    """Name -> words of commands that write, each of which begins where the one before it ends."""
    (folder / "predictions.csv").write_text(IMPORTED, encoding="utf-8")
    (folder / "labels.csv").write_text(LABELS, encoding="utf-8")
    tables = [folder / "predictions.csv", "--images", folder / "labels.csv"]
    return {
        "run": ["run", study],
        "import predictions": ["import", "predictions", *tables, "--checkpoint", "net"],
        "analyze": ["analyze"],
        "studies delete": ["studies", "delete", "net", "--yes"],
    }


def facts_of(database: Path) -> set[tuple[Any, ...]]:
    if not database.exists():
        return set()
    return {(number, *row) for number, sql in enumerate(FACTS) for row in ask(database, sql)}


@dataclass(frozen=True)
class Step:
    """A command that nothing disturbed."""

    words: list[str | Path]
    original: Path
    """The folder as it was."""
    facts: tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]]
    """The content of the database before and after a fault."""
    changes: int
    """Changes of the disk that it made."""


def call(words: list[str | Path], root: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "bandlens", *map(str, words), "--db", str(root / "results.duckdb")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def record_steps(base: Bench, library: Path, folder: Path) -> dict[str, Step]:
    root, steps = folder / "root", dict[str, Step]()
    root.mkdir(parents=True)
    facts = facts_of(root / "results.duckdb")
    for number, (name, words) in enumerate(steps_of(base.study, folder).items()):
        original, log = folder / f"before{number}", folder / f"log{number}"
        shutil.copytree(root, original)
        answer = call(words, root, disk_environment(library, root, LOG=log))
        assert answer.returncode == 0, (name, answer.stderr)
        new_facts = facts_of(root / "results.duckdb")
        steps[name] = Step(words, original, (facts, new_facts), len(read_log(log)))
        facts = new_facts
    return steps


def strike_command(steps: dict[str, Step], library: Path, folder: Path, seed: int) -> str:
    """Strike a random change of a random command: every fact is one from before or after it, and it can be repeated."""
    random = Random(seed)
    name = random.choice(sorted(steps))
    step, root = steps[name], folder / "root"
    shutil.copytree(step.original, root)
    error = random.choice((0, 0, 0, *ERRORS))
    place = random.randrange(step.changes)
    answer = call(step.words, root, disk_environment(library, root, AT=place, ERRNO=error))
    case = f"seed {seed}: {name}, change {place} of {step.changes}, {errno.errorcode.get(error, 'killed')}"
    assert answer.returncode in ((0, 1) if error else (0, 1, -signal.SIGKILL)), (case, answer.returncode, answer.stderr)
    assert "Traceback" not in answer.stderr, (case, answer.stderr)
    if answer.returncode == 1:
        assert answer.stderr.splitlines()[-1].startswith("bandlens: "), (case, answer.stderr)
    old_facts, new_facts = step.facts
    facts = facts_of(root / "results.duckdb")
    assert old_facts & new_facts <= facts <= old_facts | new_facts, (
        case,
        "lost",
        old_facts & new_facts - facts,
        "new",
        facts - old_facts - new_facts,
    )
    if answer.returncode == 0:
        assert facts == new_facts, (case, "it said that it was done")
    if not (name == "studies delete" and facts == new_facts):  # there is nothing more to delete
        answer = call(step.words, root, dict(os.environ))
        assert answer.returncode == 0, (case, "repeated", answer.stderr)
    assert facts_of(root / "results.duckdb") == new_facts, (case, "repeated")
    return f"{name}: " + ("killed at a change of the disk" if not error else "the disk failed")


# The campaign


def campaign(power: int, commands: int, seed: int) -> Counter[str]:
    """So many losses of power and so many struck commands; what was done, and how often."""
    counts = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="disks-") as name:
        scratch = Path(name).resolve()
        base, library = bench(scratch / "bench"), compile_disk(scratch)
        recorded = record_runs(base, library, scratch / "runs")
        for number in range(seed, seed + power):
            with _folder_of(scratch / "power") as folder:
                counts[strike_power(base, recorded, folder, number)] += 1
        steps = record_steps(base, library, scratch / "steps") if commands else {}
        for number in range(seed, seed + commands):
            with _folder_of(scratch / "struck") as folder:
                counts[strike_command(steps, library, folder, number)] += 1
    return counts


@contextmanager
def _folder_of(path: Path) -> Iterator[Path]:
    path.mkdir()
    yield path
    shutil.rmtree(path)


def main() -> None:
    run_campaign(__doc__, campaign, {"power": (8, "losses of power"), "commands": (2, "commands that are struck")})


if __name__ == "__main__":
    main()
