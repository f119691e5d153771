"""A function of a user's in a process of its own: what it says of itself, what it gives, and how its end is told."""

from __future__ import annotations

import gc
import operator
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from made_up_results import python
from waiting import LIMIT_SECONDS

from bandlens import user_function
from bandlens.core.errors import StoreError, UsageError
from bandlens.user_function import OtherValue, UserFunction, settings_of
from bandlens.user_source import UserSource

WORST = '''
"""A measure, which no probe is."""
import os
import time

import numpy as np


def worst(confidence, right, *, quantile=0.1, label=None):
    """The least sure of the right answers.

    More of it.
    """
    return np.quantile(confidence[right], quantile)


def doubled(confidence):
    confidence *= 2
    return confidence


def ends(how):
    os.kill(os.getpid(), how)
    time.sleep(60)  # another thread may be the one that the signal comes to


def waits(seconds):
    time.sleep(seconds)
    return seconds
'''

Start = Callable[..., UserFunction]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def start(name: str, source: str = WORST) -> UserFunction:
        (tmp_path / "measure.py").write_text(source, encoding="utf-8")
        return UserFunction(f"measure {name}", UserSource(tmp_path / "measure.py"), name, "confidence", StoreError)

    return start


def test_a_function_of_any_kind_is_described_and_called(start: Start) -> None:
    worst = start("worst")
    title, parameters = worst.describe()
    assert title == "The least sure of the right answers."
    assert parameters == {"confidence": (), "right": (), "quantile": (0.1,), "label": (OtherValue("None"),)}
    confidence, right = np.linspace(0, 1, 100_001), np.arange(100_001) % 2 == 0
    assert worst.call(operator.call, confidence, right) == pytest.approx(0.1)
    assert worst.call(operator.call, confidence[:11], right[:11]) == pytest.approx(1e-5)


def test_arrays_come_and_go_and_those_of_the_command_stay_what_they_are(start: Start) -> None:
    doubled, confidence = start("doubled"), np.linspace(0, 1, 1000)
    for count in (10, 1000, 3):
        np.testing.assert_array_equal(doubled.call(operator.call, confidence[:count]), confidence[:count] * 2)
    np.testing.assert_array_equal(confidence, np.linspace(0, 1, 1000))


DEFAULTS = """
from enum import IntEnum, StrEnum
import numpy as np
class Number(IntEnum):
    ONE = 1
class Text(StrEnum):
    A = "a"
class Any:
    def __repr__(self):
        return "any"
def takes(a=np.float64(0.5), b=Number.ONE, c=Text.A, d=True, e=(1, 2), f=Any(), *g: int, h: Any, **i): ...
"""


def test_defaults_arrive_without_the_classes_of_the_file(start: Start) -> None:
    _, parameters = start("takes", DEFAULTS).describe()
    assert repr(parameters) == (
        "{'a': (0.5,), 'b': (1,), 'c': ('a',), 'd': (True,), 'e': ((1, 2),), 'f': (any,), '*g': (), 'h': (), '**i': ()}"
    )


def test_parameters_that_no_study_could_give_are_named(start: Start) -> None:
    takes = start("takes", "def takes(confidence, right, quantile=0.1, *, seed): ...\n")
    _, parameters = takes.describe()
    reserved = {"confidence": "of each", "right": "which answers are right", "seed": "the study's seed"}
    assert settings_of(parameters, reserved, takes) == {"quantile": (0.1,)}
    where = rf"^measure takes: takes in {takes.source.file} takes "
    with pytest.raises(UsageError, match=rf"{where}quantile with a default, and is given a share; leave the default"):
        settings_of(parameters, {"quantile": "a share"}, takes)
    with pytest.raises(UsageError, match=rf"{where}\*\*more; name each parameter$"):
        settings_of({"**more": ()}, {}, takes)


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def test_it_starts_again_after_its_end_and_leaves_nothing(start: Start) -> None:
    def memory() -> list[str]:
        files = [str(file.resolve()) for file in Path("/dev/fd").iterdir()]
        return [name for name in files if "memfd:channel" in name]

    processes = children()  # those of other tests, which may end meanwhile
    ends = start("ends")
    for number in (9, 11, 9):
        with pytest.raises(
            StoreError, match=r"^measure ends failed: its process was ended by SIG(KILL, .*memory|SEGV)$"
        ):
            ends.call(operator.call, number)
    doubled = start("doubled")
    doubled.call(operator.call, np.zeros(3))
    gc.collect()  # the processes of tracebacks
    assert len(children() - processes) == 1
    assert memory()
    del ends, doubled
    gc.collect()
    assert (children() - processes, memory()) == (set(), [])


def test_one_process_describes_it_and_is_called(start: Start) -> None:
    processes = children()
    doubled = start("doubled")
    started = children() - processes
    assert len(started) == 1
    doubled.describe()
    for _ in range(2):
        doubled.call(operator.call, np.zeros(3))
    assert children() - processes == started


def test_a_call_that_takes_too_long_is_given_up_and_the_next_one_is_answered(start: Start) -> None:
    processes = children()
    waits = start("waits")
    with pytest.raises(StoreError, match=r"^measure waits failed: it takes more than 0.5 s$"):
        waits.call(operator.call, 600, seconds=0.5)
    assert waits.call(operator.call, 0, seconds=60) == 0
    gc.collect()  # the process of the traceback
    assert len(children() - processes) == 1


def test_what_was_changed_since_the_command_began_is_not_run(start: Start) -> None:
    waits = start("waits")
    with pytest.raises(StoreError):
        waits.call(operator.call, 600, seconds=0.1)
    waits.source.file.write_text(WORST.replace("return seconds", "return 0"))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"^measure waits was changed since the command began; run it again$"):
            waits.call(operator.call, 0)


def test_it_works_where_the_folder_of_the_command_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert start("waits").call(operator.call, 0) == 0


CRASHES = {
    "abort": ("os.abort()", "its process was ended by SIGABRT"),
    "exit": ("os._exit(3)", "its process ended with exit status 3"),
    "sys.exit": ("sys.exit(0)", "SystemExit: 0"),
    "signal": ("os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)", "its process was ended by SIGSEGV"),
    "crash": ("ctypes.string_at(0)", "its process was ended by SIGSEGV"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt:"),
    "another program": ("os.execlp('true', 'true')", "its process ended with exit status 0"),
    "closes all": ("os.closerange(3, 2**31 - 1)", "its process ended with exit status 1"),
}
HEAD = "import ctypes, os, signal, sys, time\n"


@pytest.mark.parametrize(("crash", "fate"), CRASHES.values(), ids=CRASHES)
def test_whatever_ends_it_is_one_line(start: Start, crash: str, fate: str) -> None:
    at_load = start("crashes", f"{HEAD}{crash}\ndef crashes(): ...\n")
    with pytest.raises(UsageError) as caught:
        at_load.describe()
    assert str(caught.value) == f"measure crashes: {at_load.source.file} does not load: {fate}"
    in_call = start("crashes", f"{HEAD}def crashes():\n    {crash}\n")
    for _ in range(2):
        with pytest.raises(StoreError) as caught_call:
            in_call.call(operator.call)
        assert str(caught_call.value) == f"measure crashes failed: {fate}"


def test_a_file_that_never_loads_is_one_line(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_function, "LOAD_SECONDS", 1)
    before = children()
    endless = start("endless", "while True: pass\ndef endless(): ...\n")
    with pytest.raises(UsageError) as caught:
        endless.describe()
    assert str(caught.value) == f"measure endless: {endless.source.file} does not load: it takes more than 1 s"
    with pytest.raises(StoreError, match="does not load: it takes more than 1 s"):
        endless.call(operator.call)
    assert children() == before, "an error that is kept keeps no process at work"


def test_its_end_is_told_though_a_process_that_it_forked_lives_on(start: Start, tmp_path: Path) -> None:
    """Such a process has the socket, too."""
    source = (
        "import os, time\nfrom pathlib import Path\n"
        "def forks(file):\n"
        "    if number := os.fork():\n        Path(file).write_text(str(number))\n        os.abort()\n"
        "    time.sleep(600)\n"
    )
    with pytest.raises(StoreError, match="its process was ended by SIGABRT"):
        start("forks", source).call(operator.call, str(tmp_path / "forked"))
    os.kill(int((tmp_path / "forked").read_text()), signal.SIGKILL)  # ProcessLookupError where it has ended


def test_what_it_opens_under_the_number_of_the_socket_gets_no_message(start: Start, tmp_path: Path) -> None:
    source = (
        "import os\ndef takes(name):\n    os.closerange(3, 2**31 - 1)\n"
        "    global files\n    files = [open(name, 'w') for _ in range(20)]\n"
    )
    with pytest.raises(StoreError, match="its process ended with exit status 1"):
        start("takes", source).call(operator.call, str(tmp_path / "log"))
    assert (tmp_path / "log").read_bytes() == b""


def test_it_has_no_file_of_the_commands(start: Start, tmp_path: Path) -> None:
    source = (
        "import os\nfrom pathlib import Path\n"
        "def opened(inode):\n"
        "    numbers = [int(entry.name) for entry in Path('/dev/fd').iterdir()]\n"
        "    return any(os.path.exists(f'/dev/fd/{n}') and os.stat(f'/dev/fd/{n}').st_ino == inode for n in numbers)\n"
    )
    with (tmp_path / "results").open("w") as results:
        os.set_inheritable(results.fileno(), True)
        assert not start("opened", source).call(operator.call, os.fstat(results.fileno()).st_ino)


def test_an_interrupt_of_the_user_ends_the_wait(start: Start, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def interrupt() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    waits = start("waits", f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(600)\n")
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        waits.describe()
    thread.join()


NO_ROOM = """
import operator, resource, sys
from pathlib import Path
import numpy as np
from bandlens.core.errors import StoreError
from bandlens.user_function import UserFunction
from bandlens.user_source import UserSource
doubled = UserFunction("measure doubled", UserSource(Path(sys.argv[1])), "doubled", "confidence", StoreError)
doubled.describe()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    doubled.call(operator.call, np.ones(20_000))
except StoreError as error:
    print(error)
print(doubled.call(operator.call, np.ones(10_000)).sum())
"""


def test_a_want_of_memory_is_the_error_of_its_call(start: Start) -> None:
    file = start("doubled").source.file
    result = subprocess.run(python(NO_ROOM, file), capture_output=True, text=True, check=True)
    assert result.stdout == "measure doubled failed: no memory for what it is given: File too large\n20000.0\n"


DRIVER = """
import operator, sys
from pathlib import Path
from bandlens.core.errors import StoreError
from bandlens.user_function import UserFunction
from bandlens.user_source import UserSource
UserFunction("measure at_work", UserSource(Path(sys.argv[1])), "at_work", "x", StoreError).call(operator.call)
"""
AT_WORK = """
import os, time
def at_work():
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_it_ends_with_who_asked_though_it_be_at_work(start: Start) -> None:
    file = start("at_work", AT_WORK).source.file
    with subprocess.Popen(python(DRIVER, file), stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        process = psutil.Process(int(driver.stderr.readline()))
        assert process.pid != driver.pid
        driver.kill()
    assert psutil.wait_procs([process], timeout=LIMIT_SECONDS)[1] == []


def test_nothing_heavy_is_imported_to_describe_a_function(start: Start) -> None:
    """A command that has nothing to run waits for this."""
    source = "import sys\nnames = sorted({'numpy', 'polars', 'duckdb', 'torch'} & set(sys.modules))\n"
    names = start("listed", f"{source}def listed(names=' '.join(names)): ...\n")
    assert names.describe().parameters == {"names": ("",)}
