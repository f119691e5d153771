"""Workers in processes of their own, on this machine and on Ray: the rows of a run in one process, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from made_up_results import python
from polars.testing import assert_frame_equal
from ray_clusters import ray_cluster
from small import Command, ask, bandlens, make_study, rows_of, study_in
from waiting import LIMIT_SECONDS, wait_until

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.runner import run_study
from bandlens.engine import schedule
from bandlens.engine.processes import device_workers
from bandlens.engine.schedule import Computer

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
blur = {file = "blur.py", files = ["scale.txt"], strength = 0.5}
pgd_linf = {steps = 1}
"""
CELLS = 2 * 8
RAY, DEVICES = ("--executor", "ray"), ("--devices", "cpu,cpu")


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
    """The database of a run in one process."""
    database = work.study.folder / "direct.duckdb"
    summary = run_study(work, database)
    assert (summary.cells, summary.failed) == (CELLS, [])
    return database


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
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
    accuracy = "SELECT * FROM accuracy WHERE study = 'study' ORDER BY ALL"
    assert ask(database, accuracy) == ask(direct, accuracy)


@pytest.mark.parametrize("options", [RAY, DEVICES], ids=["ray", "devices"])
def test_the_command_line_spreads_a_study(
    command: Command, study: Path, direct: Path, ray: None, tmp_path: Path, options: tuple[str, ...]
) -> None:
    database = tmp_path / "results.duckdb"
    ran = command("run", study, *options, "--no-analyze", "--db", database)
    assert ran.code == 0
    assert f"ran {CELLS} of {CELLS} cells" in ran.out
    assert len(ran.out.splitlines()) == 1, "Ray itself says nothing"
    assert_same(database, direct)
    assert "nothing to run" in command("run", study, *options, "--db", database).out


def test_workers_on_ray_import_nothing_from_the_current_folder(ray: None, workplace: Path) -> None:
    import ray as library

    (workplace / "onnxruntime.py").write_text("open('ran', 'w').close()\n")
    address = library.get_runtime_context().gcs_address
    words = ("--executor", "ray", "--address", address, "--no-analyze", "--db", workplace / "results.duckdb")
    answer = bandlens("run", make_study(workplace), *words, cwd=workplace)
    assert (answer.returncode, answer.stderr) == (0, "")


# Failures


HANGS = """
import os, signal, time
from pathlib import Path
def hangs(images, level):
    try:
        Path(__file__).with_name("HOW").touch(exist_ok=False)
    except FileExistsError:
        return images * level
    if "HOW" == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(SECONDS)
    return images * level
"""


@pytest.mark.parametrize(("options", "how"), [(RAY, "stopped"), (DEVICES, "hung")], ids=["ray", "devices"])
def test_a_worker_that_is_stopped_or_hangs_is_replaced(
    command: Command, workplace: Path, ray: None, options: tuple[str, ...], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "HANG_SECONDS", 20.0)
    (workplace / "hangs.py").write_text(HANGS.replace("HOW", how).replace("SECONDS", "3600"))
    study = make_study(workplace, probes="lowpass = {cutoff = 0.3}\nhangs = {file = 'hangs.py', level = 0.5}")
    answer = command("run", study, "--db", workplace / "results.duckdb", *options, "--format", "json")
    assert (answer.code, json.loads(answer.out)["failed"]) == (0, [])
    assert (workplace / how).exists()
    assert command("run", study, "--db", workplace / "direct.duckdb").code == 0
    assert_frame_equal(rows_of(workplace / "results.duckdb"), rows_of(workplace / "direct.duckdb"))


# The end of a run


WAITS = """
import time
from pathlib import Path
def waits(images, level):
    Path(__file__).with_name("started").touch()
    time.sleep(600)
    return images
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_of_devices_end_with_their_run(workplace: Path, number: signal.Signals) -> None:
    (workplace / "waits.py").write_text(WAITS)
    study = make_study(workplace, probes="waits = {file = 'waits.py', level = [1, 2]}")
    words = ["run", str(study), *DEVICES, "--db", str(workplace / "r.duckdb")]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bandlens", *words], stderr=subprocess.PIPE, text=True
    ) as driver:
        wait_until((workplace / "started").exists, driver)
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        processes = [Path("/proc", number) for number in children]
        assert len(processes) >= len(DEVICES)
        start = time.monotonic()
        driver.send_signal(number)
        _, lines = driver.communicate(timeout=LIMIT_SECONDS)
        assert time.monotonic() - start < 30
    assert "Traceback" not in lines
    wait_until(lambda: not any(process.exists() for process in processes))


def test_a_process_sees_its_own_card_whatever_this_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    computer = cast("Computer", SimpleNamespace(compute=os.getenv))
    with device_workers([{"CUDA_VISIBLE_DEVICES": "1"}], computer) as ([worker], _):
        worker.restart()
        assert worker.submit("CUDA_VISIBLE_DEVICES").result(LIMIT_SECONDS) == "1"


def test_a_script_without_a_main_guard_has_workers(work: Work, direct: Path, tmp_path: Path) -> None:
    script, database = tmp_path / "script.py", tmp_path / "results.duckdb"
    script.write_text(
        f"import bandlens\nprint(bandlens.run({str(work.study.folder / 'study.toml')!r}, {str(database)!r}, "
        "devices=['cpu', 'cpu']).ran)\n"
    )
    ran = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (ran.returncode, ran.stdout) == (0, f"{CELLS}\n")
    assert_same(database, direct)


# Clusters that are not there


WITHOUT = """
import sys
{preamble}
sys.argv = ["bandlens", "run", "{study}", "--executor", "ray", "--db", "{database}", *{options}]
from bandlens.app.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("preamble", "options", "code", "words"),
    [
        (
            "sys.modules['ray'] = None",
            [],
            1,
            "bandlens: --executor ray needs ray, which is not installed; run: pip install 'bandlens[ray]'",
        ),
        ("", [], 2, "bandlens: --executor ray needs a cluster: name its --address HOST:PORT, or auto for one of"),
        (
            "",
            ["--address", "127.0.0.1:1"],
            1,
            "bandlens: cannot reach a Ray cluster at 127.0.0.1:1: [Errno 111] Connection",
        ),
    ],
    ids=["no Ray", "no address", "no cluster"],
)
def test_a_ray_that_is_not_there_is_one_line(
    workplace: Path, preamble: str, options: list[str], code: int, words: str
) -> None:
    study, database = make_study(workplace), workplace / "results.duckdb"
    program = WITHOUT.format(preamble=preamble, study=study, database=database, options=options)
    result = subprocess.run(python(program), capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith(words)
    assert len(result.stderr.splitlines()) == 1


def test_a_cluster_without_room_for_a_worker_is_one_line(command: Command, workplace: Path, ray: None) -> None:
    answer = command("run", make_study(workplace, threads=64), "--executor", "ray", "--db", workplace / "r.duckdb")
    assert answer.code == 2
    assert answer.err == (
        "bandlens: a worker takes 64 CPUs, and no node of the Ray cluster has them; set `threads` in the study\n"
    )
