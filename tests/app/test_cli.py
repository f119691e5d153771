"""The command line as a whole: help of every command, light start, one-line errors and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import bandlens
from bandlens.app.cli import app

HEAVY = ("torch", "cupy", "tensorrt", "onnxruntime", "duckdb", "polars", "numpy", "pyarrow", "PIL", "altair", "scipy")
ROOT = Path(bandlens.__file__).parent


def command_paths() -> list[tuple[str, ...]]:
    """Every command and group, as the words that call it."""
    found: list[tuple[str, ...]] = []

    def walk(command: object, path: tuple[str, ...]) -> None:
        found.append(path)
        for name, child in getattr(command, "commands", {}).items():
            walk(child, (*path, name))

    walk(get_command(app), ())
    return found


def bandlens_command(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-m", "bandlens", *words], capture_output=True, text=True, cwd=cwd)


def test_the_commands_of_the_design_are_there() -> None:
    alone = [
        "doctor",
        "export",
        "export-own",
        "study",
        "plan",
        "run",
        "rebuild",
        "verify",
        "gate",
        "analyze",
        "correlate",
        "compare",
        "consistency",
        "report",
        "sql",
        "demo",
    ]
    nested = "checkpoints list, checkpoints show, checkpoints fetch, checkpoints verify, images pack, images check, "
    nested += "images frequency-conflict, "
    nested += "benchmarks list, benchmarks pack, "
    nested += "probes list, probes preview, import predictions, "
    nested += "published import, published table, published list, published sources, published agree, "
    nested += "published relate, published fits"
    assert {(name,) for name in alone} | {tuple(words.split()) for words in nested.split(", ")} <= set(command_paths())


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    is_group = any(other[: len(path)] == path and len(other) > len(path) for other in command_paths())
    assert is_group or "Example" in result.output, "help without an example"


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]])
def test_help_loads_no_heavy_library(words: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['bandlens', *{words!r}]\n"
        "from bandlens.app.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "HEAVY []"


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = f"import sys, bandlens, bandlens.records, bandlens.errors; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_finished_run_needs_neither_torch_nor_onnxruntime(tmp_path: Path) -> None:
    code = (
        "import sys, bandlens.app.study.run, bandlens.app.study.plan; "
        "print(sorted({'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["run", "no.toml"], 2, "bandlens: no study file no.toml"),
        (["plan", "no.toml"], 2, "bandlens: no study file no.toml"),
        (["export", "tv_resnet5"], 2, "bandlens: unknown checkpoint 'tv_resnet5'; did you mean tv_resnet50"),
        (["checkpoints", "show", "resnet50_dinno"], 2, "did you mean resnet50_dino"),
        (["sql", "SELECT 1", "--db", "no.duckdb"], 2, "bandlens: no results database at no.duckdb"),
        (["analyze", "--db", "no.duckdb"], 2, "bandlens: no results database at no.duckdb"),
        (["images", "pack", "no_folder", "--out", "a.set"], 2, "no_folder"),
        (["images", "check", "no.set"], 2, "no.set"),
        (["probes", "preview", "no.jpg"], 2, "bandlens: cannot read no.jpg: No such file or directory"),
        (["published", "import", "no.csv"], 2, "no.csv"),
        (["published", "table", "--db", "no.duckdb"], 2, "no.duckdb"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_not_there_gets_one_line_on_stderr(
    tmp_path: Path, words: list[str], exit_code: int, message: str
) -> None:
    result = bandlens_command(*words, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (exit_code, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_wrong_use() -> None:
    result = bandlens_command("rn")
    assert result.returncode == 2
    assert "rn" in result.stderr
    assert "Traceback" not in result.stderr


def test_checkpoints_list_json_has_48_rows() -> None:
    result = bandlens_command("checkpoints", "list", "--json")
    rows = json.loads(result.stdout)
    assert len(rows) == 48
    assert all({"name", "category"} <= row.keys() for row in rows)


def test_probes_list_json_has_52_conditions() -> None:
    rows = json.loads(bandlens_command("probes", "list", "--json").stdout)
    assert len(rows) == 52
    assert rows[0]["probe"] == "clean"


def test_shell_completion_is_offered() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"TERM": "dumb"})
    assert "--install-completion" in result.output
