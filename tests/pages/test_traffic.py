"""benchmarks/traffic.py: what it counts, and that docs/guide/gpu.md has what it reckons."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from imports_of_folders import PACKAGE

from bandlens.probes import kernels

DOCS = (PACKAGE / "docs/guide/gpu.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def program() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE / "benchmarks"))
        yield importlib.import_module("traffic")


ONE = 4 * 6 * 6
"""Bytes of a matrix of 6 x 6 float32."""


@pytest.mark.parametrize(
    ("work", "moved"),
    [
        (lambda a: a + 1, [10 * ONE]),
        (lambda a: a + a[:1], [11 * ONE]),
        (lambda a: np.add(a, 1, out=a), [10 * ONE]),
        (lambda a: np.add(a[1:], a[:-1], out=a[1:]), [8 * ONE, 8 * ONE, 12 * ONE]),
        (lambda a: a[0, 0], []),
        (lambda a: a[0].T.copy(), [2 * ONE]),
        (lambda a: a.astype(np.uint8), [5 * ONE + 5 * ONE // 4]),
        (lambda a: a.sum(axis=(1, 2)), [5 * ONE + 5 * 4]),
        (lambda a: np.linalg.norm(a, axis=2), [5 * ONE + 5 * 6 * 4]),
        (lambda a: a.__setitem__(0, 1), [ONE]),
        (lambda a: a.__setitem__(slice(None), a[0]), [ONE + 5 * ONE]),
        (lambda a: a[1:].__setitem__(slice(None), a[:-1]), [8 * ONE]),
        (lambda a: a.reshape(-1, 6), []),
        (lambda a: a[:, :, :3].reshape(-1), [5 * ONE]),
        (lambda a: a[0] @ a[1].T, [3 * ONE]),
        (lambda a: a[0][:, :3] @ a[1][:3], [ONE, 2 * ONE]),
        (lambda a: a @ a, [15 * ONE]),
        (lambda a: a @ a.transpose(0, 2, 1), [10 * ONE, 15 * ONE]),
        (lambda a: a[0] @ a, [0, 0, 0, 11 * ONE]),
        (lambda a: a[0].T @ a[None], [2 * ONE, *[0] * 6, 11 * ONE]),
    ],
)
def test_launches_and_the_bytes_that_each_moves(
    program: ModuleType, work: Callable[..., Any], moved: list[int]
) -> None:
    array = program.CountingModule("counting").zeros((5, 6, 6), np.float32)
    program.LEDGER.launches.clear()
    work(array)
    assert [launch.bytes for launch in program.LEDGER.launches] == moved


def test_an_operation_in_place_ends_with_nothing_more_to_assign(program: ModuleType) -> None:
    array = program.CountingModule("counting").zeros((5, 6, 6), np.float32)
    program.LEDGER.launches.clear()
    array[:2] *= 2
    assert [launch.bytes for launch in program.LEDGER.launches] == [4 * ONE]


def test_operations_of_products(program: ModuleType) -> None:
    xp = program.CountingModule("counting")
    program.LEDGER.launches.clear()
    xp.zeros((5, 4, 7), np.float32) @ xp.zeros((5, 7, 3), np.float32)
    assert [launch.operations for launch in program.LEDGER.launches] == [2 * 5 * 4 * 7 * 3]


def test_the_page_has_what_is_reckoned(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "cuda_function", None)  # which the program replaces
    monkeypatch.setattr(sys, "argv", ["traffic"])
    program.main()
    printed = capsys.readouterr().out
    table, parts, shared = printed.strip().split("\n\n")
    assert table in DOCS
    assert re.findall(r"([\d.]+ %) \|$", shared, re.M) == ["2.1 %", "0.2 %"]
    assert all(f"gain{ending}" in " ".join(DOCS.split()) for ending in (" 2.1 %", "s 0.2 %"))
    read_and_written = 1e3 * 256 * 224 * 224 * (3 * 4 + 8 * 2) / (0.8 * 3.35e12) + 3e-3  # floats, and 8 halves a pixel
    assert f"| normalization and cast of a batch | {48 * read_and_written:.1f} | {read_and_written:.1f} |" in shared
    taken = dict(re.findall(r"^\| (\d+) .* \| ([\d.]+) \| [\d.]+ \|$", table, re.M))
    predictions = (PACKAGE / "benchmarks/gpu_first/figures.py").read_text(encoding="utf-8")
    assert f'"22 spectral conditions of a batch of 256", "ms", "{taken["22"]}"' in predictions
    assert f'"29 critical-band conditions of a batch of 256", "ms", "{taken["29"]}"' in predictions
    clean = 256 * 3 * 224 * 224 * 5  # a byte is read, and four are written
    assert f"| 1 clean | divide | 1 | {clean / 1e9:.2f} | {1e3 * (clean / program.BANDWIDTH + 3e-6):.2f} |" in parts
    assert "copy" not in parts, "the probes have no operand that CuPy would copy"
