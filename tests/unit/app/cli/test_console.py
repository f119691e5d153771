"""Printing: every number of every command's table is on a terminal of 80 columns, and counts of progress are whole."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_up_results import Images, cell, image_set, model, part, store_study
from small import Answer, Command, make_images, make_model, make_pictures, make_study

from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics.registry import details
from bandlens.app.api.results import analyze
from bandlens.app.cli.console import listen, progress
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study
from bandlens.core.protocol import BIAS_CUTOFFS
from bandlens.core.records import Finished, Model
from bandlens.export.model_files import save_onnx_file
from bandlens.probes.grid import make_grid

MODELS = ["resnet50_trained_on_SIN_and_IN", *(f"efficientnet_lite0_{'x' * 9}_{letter}" for letter in "bcd")]
"""Names of 30 characters; the first one is that of a published model."""
IMAGES = "photographs_of_foxes_012345678"
STUDIES = [f"a_study_of_thirty_characters_{k}" for k in (1, 2)]
FILTERS = {probe: {"cutoff": list(BIAS_CUTOFFS)} for probe in ("lowpass", "highpass")}
NOISE = {"critical_band": {"noise_sd": [0.02, 0.16], "frequency": [1, 3, 5]}}
"""Noise is a probe of the first study alone."""
WIDTH = 80

COMMANDS = {
    "analyze": f"analyze --db results.duckdb --study {STUDIES[0]}",
    "benchmarks": "benchmarks list",
    "checkpoints": "checkpoints list",
    "consistency": f"consistency {IMAGES} --db results.duckdb --pairs",
    "correlate": f"correlate --db results.duckdb --study {STUDIES[0]}",
    "correlate, published": "correlate",
    "gate, release": f"gate release {STUDIES[1]} --against {STUDIES[0]} --db results.duckdb",
    "gate": f"gate precision {STUDIES[1]}.toml --candidate onnxruntime:int8 --db gated.duckdb",
    "measures": "measures list",
    "plan": f"plan {STUDIES[1]}.toml --db gated.duckdb --cells",
    "power": "power",
    "probes": "probes list",
    "published show": "published show --db results.duckdb",
    "published show, model": "published show tv_resnet50",
    "sensitivity": f"sensitivity {MODELS[0]} images.set --models models",
    "studies": "studies list --db results.duckdb",
    "verify": "verify --db gated.duckdb",
}
"""Commands that print tables."""
TABLE_PARTS = {"gate": ("checkpoints",), "plan": ("rows",)}
"""The part of a command's JSON that its tables show, where that is not all of it."""
FOR_JSON = {
    "correlate": {"partial_p", "low_images", "high_images", "p", "p_least", "p_permutation", "p_bh", "detectable"}
    | {"loco_low", "loco_high"},
    "published": {"values", "models_within", "p", "n"},
}
"""Numbers that a command leaves to JSON."""


def parts_of(images: Images, by: Model, precision: str, skill: float) -> Iterator[Finished]:
    """Predictions under the published grid: worse the more of an image is gone, and the worse the model is."""
    rng = np.random.default_rng([len(by.name), int(100 * skill)])
    for setting in make_grid(FILTERS | (NOISE if precision == "fp32" else {}), Path()).conditions:
        values = dict(setting.parameters)
        harm = abs(float(values.get("cutoff", 0.5)) - 0.5) + 3 * float(values.get("noise_sd", 0))
        ranks = (rng.random(images.info.count) < min(0.95, 1 - skill + harm)).astype(int)
        yield part(cell(images, setting, by=by, precision=precision), ranks, ranks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of four models in two studies; models, images and a study file that a gate has compared."""
    folder = tmp_path_factory.mktemp("tables")
    images = image_set(60, name=IMAGES, labels=[0] * 60)
    with open_store(folder / "results.duckdb") as store:
        for study, precision in zip(STUDIES, ("fp32", "int8"), strict=True):
            parts = [
                finished
                for k, name in enumerate(MODELS)
                for finished in parts_of(images, model(name), precision, 0.95 - 0.07 * k - 0.1 * (precision == "int8"))
            ]
            store_study(store, study, images, parts)
    analyze(folder / "results.duckdb", STUDIES[0])
    make_images(folder / "images.set", make_pictures(40), labels=[k % 12 for k in range(40)], name=IMAGES)
    for seed, name in enumerate(MODELS[:2]):
        network = make_model(folder / "models", name, seed=seed)
        int8 = make_model(folder / "others", name, seed=seed + 5)
        save_onnx_file(network, "int8", int8.path.read_bytes(), {})
    file = make_study(folder, name=STUDIES[1], checkpoints=MODELS[:2], probes="lowpass = {}\n[gate]\nflips = 0.25")
    run_study(resolve(Study.read(file)), folder / "gated.duckdb")
    return folder


def numbers_in(rows: object, for_json: set[str]) -> Iterator[float]:
    """Every number in JSON, at any depth, but ids and those of the keys `for_json`."""
    if isinstance(rows, dict):
        for name, value in rows.items():
            if name not in for_json and not name.endswith("_id"):
                yield from numbers_in(value, for_json)
    elif isinstance(rows, list):
        for row in rows:
            yield from numbers_in(row, for_json)
    elif isinstance(rows, (int, float)) and not isinstance(rows, bool):
        yield rows


def forms(number: float) -> set[str]:
    """The texts of a number in tables: whole, in four digits, as a difference, a coefficient or a p-value."""
    if isinstance(number, int):
        return {str(number), f"{number:,}"}
    two = f"{round(number, 2) + 0:.2f}"
    return {f"{number:.4g}", f"{number:+.3f}", two, f"{number:.3g}", f"{number:.4f}", f"{number:.0e}"}


@pytest.fixture
def terminal(command: Command, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Command:
    """`command`, with standard output a terminal of 80 columns, in the folder of the databases."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("BANDLENS_HOME", str(folder / "home"))

    def run(*words: str | Path) -> Answer:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        return command(*words)

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_of_a_table_and_every_sentence_is_on_80_columns(terminal: Command, name: str) -> None:
    words = COMMANDS[name].split()
    answer = terminal(*words)
    numbers = set(re.findall(r"[-+]?[\d.,]*\d(?:e[-+]\d+)?", answer.out))
    numbers |= {text.lstrip("+-") for text in numbers}
    rows = json.loads(terminal(*words, "--format", "json").out)
    if words[0] in TABLE_PARTS:
        rows = [rows[table] for table in TABLE_PARTS[words[0]]]
    if name == "analyze":
        rows = [row for row in rows if row["value"] is None or row["metric"] not in details()]
    missing = {number for number in numbers_in(rows, FOR_JSON.get(words[0], set())) if not forms(number) & numbers}
    assert missing == set()
    lines = answer.out.splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []
    if name == "analyze":
        assert len({row["state"] for row in rows if row["value"] is not None}) > 1
        for row in rows:
            number = None if row["value"] is None else f"{row['value']:.4g}"
            lines_of_row = [line for line in lines if number in line.split() and row["state"] in line.split()]
            assert lines_of_row or (number is None and f"no value ({row['state']}) of " in answer.out), row


def test_progress_in_a_log_is_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: seconds)
    listen()
    with progress("running", 10_000, "predictions") as advance:
        for _ in range(600):
            seconds += 1
            advance()
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert 8 <= len(lines) <= 11
    assert all(re.match(r"running: +\d+%.* \d+/10,000 \[", line) for line in lines)


@pytest.mark.parametrize(
    ("total", "amount", "count"),
    [(None, 1, "writing: 2 charts ["), (12_345, 1, "2/12,345 ["), (2, 1.0000001, "2/2 [")],
)
def test_counts_of_progress_are_whole_and_end_at_the_total(
    total: int | None, amount: float, count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        with progress("writing", total, "charts", delay=0) as advance:
            advance(amount)
            advance(amount)
    assert count in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gate", "plan", "correlate, published"])
def test_a_pipe_gets_the_tables_and_nothing_else(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BANDLENS_HOME", str(folder / "home"))
    command_line = COMMANDS[name].split()
    markdown = [line for line in command(*command_line, "--format", "markdown").out.splitlines() if line]
    assert len(markdown) > 2
    assert [line for line in markdown if not line.startswith(("| ", "|:", "|-", "## "))] == []
    latex = command(*command_line, "--format", "latex").out
    tabulars = re.sub(r"\\begin\{tabular\}.*?\\end\{tabular\}", "", latex, flags=re.DOTALL)
    assert tabulars != latex
    assert re.sub(r"\\(begin|end)\{table\}|\\caption\{.*\}", "", tabulars).strip() == ""
    rows = list(csv.reader(io.StringIO(command(*command_line, "--format", "csv").out)))
    assert len(rows) > 1
    assert {len(row) for row in rows} == {len(rows[0])}


def test_a_bar_on_a_terminal_shows_the_signs_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("a\x1b[2Jmodel", 1, "image", delay=0) as advance:
        advance()
    assert r"a\x1b[2Jmodel" in terminal.getvalue()


def test_a_notebook_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", cell)
    with progress("running", 2, "images", delay=0) as advance:
        advance()
    assert "running:  50%|" in cell.getvalue()
