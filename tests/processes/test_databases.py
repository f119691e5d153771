"""A results database that other processes hold, that a kill interrupts, or whose disk is full."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from made_up_results import cell, condition, image_set, part, python, store_study
from required import miss
from small import ask
from waiting import LIMIT_SECONDS, wait_until

import bandlens
from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
from bandlens.core.errors import BandlensError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.duckdb"


def refusal(path: Path, read_only: bool = False) -> str:
    with pytest.raises(BandlensError) as error, open_store(path, read_only):
        pass
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return f"{type(error.value).__name__}: {error.value}"


HOLD = """
import sys
from pathlib import Path
from bandlens.analysis.database.open import open_store
with open_store(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("read_only", "words", "advice"),
    [
        (False, (), "; wait for it to end"),
        (True, (), "; wait for it to end"),
        (False, ("explore",), ", an explorer that has it open: end it with Ctrl-C"),
    ],
)
def test_a_database_in_use_by_another_process_is_refused(
    path: Path, read_only: bool, words: tuple[str, ...], advice: str
) -> None:
    with subprocess.Popen(
        python(HOLD, path, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        assert f"in use by process {holder.pid}{advice}" in refusal(path, read_only)
        holder.communicate("")
    with open_store(path, read_only):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from made_up_results import cell, condition, image_set, part, store_study
from bandlens.analysis.database.open import open_store
images = image_set(20, labels=[0] * 20)
with open_store(Path(sys.argv[1])) as store:
    store_study(store, "first", images, [part(cell(images), [0] * 20, [0] * 20)])
    store.checkpoint()
    store_study(store, "second", images, [part(cell(images, condition("lowpass")), [0] * 20, [0] * 20)])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("damage", "read_only"),
    [(lambda log: log[:-8] + bytes(8), False), (lambda log: log[:-1] + bytes([log[-1] ^ 1]), True)],
    ids=["zeros", "one bit"],
)
def test_a_damaged_log_is_named_and_without_it_the_database_is_what_the_file_holds(
    path: Path, damage: Callable[[bytes], bytes], read_only: bool
) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    subprocess.run(python(KILLED, path), env=environment, check=False, timeout=LIMIT_SECONDS)
    log = path.with_name("results.duckdb.wal")
    log.write_bytes(damage(log.read_bytes()))
    since = datetime.fromtimestamp(path.stat().st_mtime)
    assert f"StoreError: {log} is damaged" in refusal(path, read_only)
    assert f"move it away, which loses what was committed after {since:%Y-%m-%d %H:%M:%S}" in refusal(path, read_only)
    log.rename(path.with_name("moved"))
    assert ask(path, "SELECT study FROM accuracy") == [("first",)]
    with open_store(path) as store:
        images = image_set(20, labels=[0] * 20)
        store_study(store, "second", images, [part(cell(images, condition("lowpass")), [0] * 20, [0] * 20)])
        assert [check.problems for check in check_database(store) if check.problems] == []


OLD_DUCKDB = Path(sys.prefix) / "duckdb-1.5"
"""The folder where `make setup` installs DuckDB 1.5."""
STORE_SECOND = """
import sys
from pathlib import Path
import duckdb
from made_up_results import cell, condition, image_set, part, store_study
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
assert duckdb.__version__.startswith("1.5."), duckdb.__version__
path, merged = map(Path, sys.argv[1:])
with duckdb.connect(str(path), read_only=True) as connection:
    assert connection.sql("SELECT study, n, top1 FROM accuracy").fetchall() == [("first", 2, 0.5)]
    assert connection.sql("SELECT count(*) FROM octave_share").fetchall() == [(0,)]
images = image_set(2, labels=[0, 1])
with open_store(path) as store:
    store_study(store, "second", images, [part(cell(images, condition("lowpass")), [0, 1], [0, 0])])
merge([path], merged)
"""


def test_duckdb_1_5_reads_and_writes_what_is_written_here(path: Path) -> None:
    if not OLD_DUCKDB.is_dir():
        miss("duckdb-1.5", f"no DuckDB 1.5 in {OLD_DUCKDB}; `make setup` installs it")
    images = image_set(2, labels=[0, 1])
    with open_store(path) as store:
        store_study(store, "first", images, [part(cell(images), [0, 0], [0, 1])])
    merged = path.with_name("merged.duckdb")
    folders = [OLD_DUCKDB, Path(__file__).parents[1] / "support"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    subprocess.run(python(STORE_SECOND, path, merged), env=environment, check=True, timeout=LIMIT_SECONDS)
    for file in (path, merged):
        assert ask(file, "SELECT study, top1 FROM accuracy ORDER BY ALL") == [("first", 0.5), ("second", 1.0)]


OPEN_IN_NOTEBOOK = """
import sys
from pathlib import Path
from types import SimpleNamespace
kernel = SimpleNamespace(config={"IPKernelApp": {}})
sys.modules |= {"IPython": SimpleNamespace(get_ipython=lambda: kernel), "ipywidgets": None}
from bandlens.analysis.database.merge import merge
from bandlens.analysis.database.open import open_store
path, merged = map(Path, sys.argv[1:])
with open_store(path):
    pass
merge([path], merged)
"""


def test_a_notebook_without_widgets_opens_a_database(path: Path) -> None:
    subprocess.run(python(OPEN_IN_NOTEBOOK, path, path.with_name("merged.duckdb")), check=True, timeout=LIMIT_SECONDS)


OPEN_BY_DUCKDB = """
import sys
import duckdb
duckdb.connect(sys.argv[1]).close()
"""


def refuses_a_writer(path: Path) -> bool:
    """Whether DuckDB in another process, which knows nothing of bandlens, may not open the database."""
    writer = subprocess.run(python(OPEN_BY_DUCKDB, path), capture_output=True, text=True, check=False)
    assert (writer.returncode == 0) != ("Could not set lock" in writer.stderr)
    return writer.returncode != 0


def test_a_second_reader_in_one_program_leaves_the_lock_of_the_first(path: Path) -> None:
    """A lock of POSIX belongs to the process, and any close of the file in it gives the lock up."""
    link = path.with_name("link.duckdb")
    link.symlink_to(path)
    with open_store(path):
        pass
    with (results := bandlens.open(path)):
        for name in (path, link):
            with bandlens.open(name) as second:
                assert second.sql("SELECT 1 AS one").item() == 1
            assert refuses_a_writer(path)
    assert not refuses_a_writer(path)
    assert results.sql("SELECT 1 AS one").item() == 1, "a notebook keeps what it has shown"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_look_beside_a_run_in_one_program_is_refused_and_leaves_the_lock(path: Path, read_only: bool) -> None:
    with open_store(path):
        pass
    with open_store(path, not read_only):
        assert "is open in this program, to read where it is now to be written" in refusal(path, read_only)
        assert refuses_a_writer(path)


WRITE = """
import os, sys
from pathlib import Path
from bandlens.analysis.database.open import open_store
from bandlens.core.errors import BandlensError, StoreError
if os.geteuid() == 0:
    os.setuid(65534)
try:
    with open_store(Path(sys.argv[1])) as store:
        store.execute("INSERT INTO class_name VALUES ('m', 1, 'x')")
except BandlensError as error:
    print(error)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may read, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_may_not_be_written_is_named(public: Path, exists: bool) -> None:
    path = public / "results.duckdb"
    if exists:
        with open_store(path):
            pass
    public.chmod(0o555)
    result = subprocess.run(python(WRITE, path), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert "Permission denied" in result.stdout
    assert str(path) in result.stdout
    assert [file.name for file in public.iterdir()] == ["results.duckdb"] * exists


MAKE = """
import os, sys
from pathlib import Path
from bandlens.analysis.database import open as opening
path = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with opening.open_store(path) as opened:
    opened.execute("INSERT INTO class_name VALUES ('m', ?, ?)", [os.getpid() % 60_000, str(os.getpid())])
    print("open", flush=True)
    sys.stdin.readline()
"""


def maker(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        python(MAKE, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_that_make_it_at_once_do_not_lose_each_others_rows(path: Path) -> None:
    processes = [maker(path) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    wrote = {str(process.pid): "open" in process.communicate("\n\n")[0] for process in processes}
    with open_store(path, read_only=True) as store:
        metrics = set(store.frame("SELECT name FROM class_name")["name"])
    assert metrics == {pid for pid, well in wrote.items() if well}
    assert metrics


LIMITED = """
import resource, sys
from pathlib import Path
from bandlens.analysis.database.open import open_store
from bandlens.core.errors import BandlensError, StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    with open_store(Path(sys.argv[1])) as store:
        for k in range(100):
            with store.transaction():
                store.execute("INSERT INTO image_attribute SELECT 1, range, 'm', random()::VARCHAR FROM range(2000)")
            print(k + 1)
except BandlensError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
"""


def test_a_file_that_may_not_grow_keeps_what_was_committed(path: Path) -> None:
    result = subprocess.run(python(LIMITED, path, 2 << 20), capture_output=True, text=True)
    assert result.stderr.count("\n") == 1, result.stderr
    assert "the file may not grow further" in result.stderr
    assert "what was committed stays: make room and run again" in result.stderr
    commits = len(result.stdout.split())
    assert 0 < commits < 100
    with open_store(path) as store:
        assert len(store.frame("FROM image_attribute")) == 2000 * commits
        store.execute("INSERT INTO class_name VALUES ('m', 1, 'x')")


def test_a_database_that_finds_no_room_at_its_making_leaves_nothing(path: Path) -> None:
    result = subprocess.run(python(LIMITED, path, 100_000), capture_output=True, text=True)
    assert result.stdout == ""
    assert f"{path}: the file may not grow further" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(path.parent.iterdir()) == []


ANEW = """
import resource, sys
from pathlib import Path
from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.merge import merge
from bandlens.core.errors import BandlensError
database, out, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    merge([database, *map(Path, sys.argv[4:])], out)
except BandlensError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
"""


def test_a_merge_that_finds_no_room_names_the_file_of_the_user(path: Path) -> None:
    databases = [path, path.with_name("more.duckdb")]
    for number, database in enumerate(databases):
        with open_store(database) as store:
            columns = "source, model, benchmark, metric, condition, unit, value"
            rows = "SELECT 's', 'm', '', 'x', random()::VARCHAR, '', random() FROM range(60000)"
            store.execute(f"INSERT INTO published_value ({columns}) {rows}")
            store.execute("UPDATE published_value SET source = ?", [str(number)])
    out = path.with_name("out.duckdb")
    result = subprocess.run(python(ANEW, path, out, 600_000, databases[1]), capture_output=True, text=True)
    assert result.stderr.startswith(f"StoreError: {out}: the file may not grow further")
    assert result.stderr.count("\n") == 1
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(file.name for file in databases)


MERGE = """
import sys
from pathlib import Path
from bandlens.analysis.database.integrity import check_database
from bandlens.analysis.database.merge import merge
merge([Path(name) for name in sys.argv[2:]], Path(sys.argv[1]))
"""
COUNTS = """
SELECT (SELECT count(*) FROM study), (SELECT count(*) FROM cell WHERE complete), (SELECT count(*) FROM prediction)
"""


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two databases of 50,000 predictions each."""
    images, paths = image_set(50_000), [tmp_path / "a.duckdb", tmp_path / "b.duckdb"]
    for path, probe in zip(paths, ("lowpass", "highpass"), strict=True):
        with open_store(path) as store:
            store_study(store, probe, images, [part(cell(images, condition(probe)), np.arange(50_000) % 1000)])
    return paths


def test_killed_while_a_merge_writes_no_database_is_half_there(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.duckdb"
    contents = [path.read_bytes() for path in pair]
    with subprocess.Popen(python(MERGE, out, *pair), text=True) as process:
        wait_until(lambda: any(tmp_path.glob(".out.duckdb.*/out.duckdb")), process)
        process.send_signal(signal.SIGKILL)
    if not out.exists():
        merge(pair, out)
    with open_store(out) as store:
        assert store.frame(COUNTS).rows() == [(2, 2, 100_000)]
    assert [path.read_bytes() for path in pair] == contents
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.duckdb", "b.duckdb", "out.duckdb"]
