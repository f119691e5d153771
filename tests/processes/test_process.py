"""A user's probe in a process of its own: the images are those that it makes here, and its end is told."""

from __future__ import annotations

import gc
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from made_up_results import python
from numpy.typing import NDArray
from waiting import LIMIT_SECONDS

from bandlens.errors import ProbeError
from bandlens.probes.arrays import to_numpy
from bandlens.probes.family import Batch, Family
from bandlens.probes.process import family_apart
from bandlens.probes.source import ProbeSource
from bandlens.probes.user import user_family

SALT = """
import os, time
def salt(images, share, rng, index, seed):
    images[rng.random(images.shape) < share] = (index + seed) % 2
    return images
def without_abs(images):
    import numpy
    numpy.abs = None
    return images
def end(images, how):
    os.kill(os.getpid(), how)
    time.sleep(60)  # another thread may be the one that the signal comes to
"""


def batch(xp: ModuleType, count: int, size: int = 16) -> Batch:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 3, size, size), np.uint8)
    return Batch(xp.asarray(pixels), xp.arange(count, dtype=xp.uint64), np.arange(count), 3)


def made(xp: ModuleType, family: Family, of: Batch, **given: Any) -> list[NDArray[np.float32]]:
    buffer = lambda: xp.empty(of.pixels.shape, xp.float32)  # noqa: E731
    return [to_numpy(images) for _, images in family.perturb(xp, of, family.conditions(given), buffer)]


@pytest.fixture
def source(tmp_path: Path) -> ProbeSource:
    (tmp_path / "mine.py").write_text(SALT)
    return ProbeSource(tmp_path / "mine.py")


def test_images_are_those_that_the_function_makes_here(xp: ModuleType, source: ProbeSource) -> None:
    here, apart = (of("salt", source) for of in (user_family, family_apart))
    assert apart.version == here.version
    for count, size in ((2, 16), (5, 16), (1, 32), (2, 16)):  # the memory between them grows and shrinks
        of = batch(xp, count, size)
        mine, others = (made(xp, family, of, share=[0.0, 0.5]) for family in (here, apart))
        np.testing.assert_array_equal(mine, others)


def test_it_starts_again_after_its_end_and_leaves_nothing(source: ProbeSource) -> None:
    def children() -> set[psutil.Process]:
        return set(psutil.Process().children())

    def shared() -> list[str]:
        files = [str(file.resolve()) for file in Path("/dev/fd").iterdir()]
        return [name for name in files if "memfd:probe" in name]

    before = children()  # of other tests, which may end meanwhile
    apart = family_apart("end", source)
    for number in (9, 11, 9):
        with pytest.raises(ProbeError, match=r"^probe end failed: its process was ended by SIG(KILL, .*memory|SEGV)$"):
            made(np, apart, batch(np, 2), how=number)
    salt = family_apart("salt", source)
    made(np, salt, batch(np, 2), share=0.5)
    gc.collect()  # of tracebacks
    assert len(children() - before) == 1
    assert shared()
    del apart, salt
    gc.collect()
    assert (children() - before, shared()) == (set(), [])


def test_what_was_changed_since_the_command_began_is_not_run(source: ProbeSource) -> None:
    apart = family_apart("salt", source)
    source.file.write_text(SALT.replace("% 2", "% 3"))
    for _ in range(2):
        with pytest.raises(ProbeError, match=r"^probe salt was changed since the command began; run it again$"):
            made(np, apart, batch(np, 2), share=0.5)


def test_it_works_where_the_folder_of_the_command_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: ProbeSource
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert len(made(np, family_apart("salt", source), batch(np, 2), share=0.5)) == 1


def test_what_fails_around_the_function_is_one_line_too(source: ProbeSource) -> None:
    apart = family_apart("without_abs", source)
    said = r"^probe without_abs failed: TypeError: 'NoneType' object is not callable$"
    for _ in range(2):
        with pytest.raises(ProbeError, match=said):
            made(np, apart, batch(np, 2))


DRIVER = """
import sys, threading, numpy as np
from pathlib import Path
from bandlens.probes.family import Batch
from bandlens.probes.process import family_apart
from bandlens.probes.source import ProbeSource
family = family_apart("waits", ProbeSource(Path(sys.argv[1])))
pixels = np.zeros((1, 3, 8, 8), np.uint8)
of = Batch(pixels, np.zeros(1, np.uint64), np.zeros(1, np.int64), 0)
list(family.perturb(np, of, family.conditions({}), lambda: np.empty(pixels.shape, np.float32)))
"""
WAITS = """
import os, time
def waits(images):
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_it_ends_with_who_asked_though_it_be_at_work(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    with subprocess.Popen(python(DRIVER, tmp_path / "waits.py"), stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        process = psutil.Process(int(driver.stderr.readline()))
        assert process.pid != driver.pid
        driver.kill()
    assert psutil.wait_procs([process], timeout=LIMIT_SECONDS)[1] == []
