from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_results import python
from waiting import LIMIT_SECONDS

from bandlens.analysis.database.open import open_store
from bandlens.core.files import partial_prefix, remove_partial_files, replacing

KILLED = """
import os, signal, sys
from pathlib import Path
from bandlens.analysis.database import open as database
from bandlens.core.files import replacing
if sys.argv[1] == "database":
    database.os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    database.create(Path(sys.argv[2]))
else:
    with replacing(Path(sys.argv[2])) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


KILLED_AT_A_RENAME = """
import os, signal, sys
from pathlib import Path
from bandlens.core.files import exchange_folders

renames_left = int(sys.argv[1])

def kill(event, arguments):
    global renames_left
    if event == "os.rename":
        if not renames_left:
            os.kill(os.getpid(), signal.SIGKILL)
        renames_left -= 1

sys.addaudithook(kill)
exchange_folders(*map(Path, sys.argv[2:]))
"""


def hidden_files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize("kind", ["database", "file"])
def test_what_a_killed_process_left_is_gone_after_the_next_use(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    subprocess.run(python(KILLED, kind, path), check=False, timeout=LIMIT_SECONDS)
    assert len(hidden_files(tmp_path)) == 1
    assert not path.exists()
    if kind == "database":
        with open_store(path):
            assert hidden_files(tmp_path) == []
    else:
        with replacing(path) as temporary:
            assert hidden_files(tmp_path) == [temporary.parent.name]
            temporary.touch()
    assert path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names in one step")
@pytest.mark.parametrize("renames", range(3))
def test_exchange_folders_leaves_a_folder_in_place_when_killed_at_any_rename(renames: int, tmp_path: Path) -> None:
    draft, folder = tmp_path / "draft", tmp_path / "set"
    draft.mkdir()
    folder.mkdir()
    subprocess.run(python(KILLED_AT_A_RENAME, renames, draft, folder), check=False, timeout=LIMIT_SECONDS)
    assert folder.is_dir()


def test_what_belongs_to_others_stays(tmp_path: Path) -> None:
    path = tmp_path / "r.duckdb"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as neighbour:
        running = partial_prefix(path).replace(str(os.getpid()), str(neighbour.pid))
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        names = [
            f"{running}abc",
            f"{partial_prefix(path)}abc",
            partial_prefix(path).replace(str(os.getpid()), "x") + "abc",
            f".r.duckdb.elsewhere.{process.pid}.abc",
            partial_prefix(Path("other")).replace(str(os.getpid()), str(process.pid)) + "abc",
        ]
        for name in names:
            (tmp_path / name).touch()
        partial = tmp_path / (partial_prefix(path).replace(str(os.getpid()), str(process.pid)) + "abc")
        (partial / "deeper").mkdir(parents=True)
        remove_partial_files(path)
        assert sorted(hidden_files(tmp_path)) == sorted(names)
        neighbour.communicate(b"\n")


def test_what_belongs_to_a_container_of_this_hosts_name_stays(tmp_path: Path) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("this system makes no namespaces")
    code = (
        "from pathlib import Path; from bandlens.core.files import partial_prefix; "
        "print(partial_prefix(Path('r.duckdb')))"
    )
    made_there = subprocess.run([*apart, *python(code)], capture_output=True, text=True, check=True).stdout.strip()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    partial = tmp_path / f"{made_there.rpartition('.')[0].rpartition('.')[0]}.{process.pid}.abc"
    partial.touch()
    remove_partial_files(tmp_path / "r.duckdb")
    assert partial.exists(), "a process that is not here may run there"


LINKED = """
import faulthandler, subprocess, sys
from pathlib import Path
from bandlens.app.study.run_monitor import RunMonitor
from bandlens.core.jobs import silent
folder = Path(sys.argv[1])
class Slow(subprocess.Popen):
    def __init__(self, *arguments, **options):
        [note] = folder.glob(".*")
        note.unlink()
        note.symlink_to(folder / "letter.txt")
        super().__init__(*arguments, **options)
subprocess.Popen = Slow
with RunMonitor(folder / "r.duckdb", silent).noting_crashes():
    faulthandler._sigsegv()
"""


def test_a_link_that_takes_the_name_of_the_note_later_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with subprocess.Popen(python(LINKED, tmp_path), stderr=subprocess.PIPE) as process:
        _, words = process.communicate()
    assert b"Fatal Python error: Segmentation fault" in words
    assert (tmp_path / "letter.txt").read_text() == "dear"
