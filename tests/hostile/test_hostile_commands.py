"""Every command that opens a results database, against databases of somebody who means harm.

Each of them gives one line and exit 1 or 2, soon and with little memory. A usual run of the tests takes every command
and every trick once; BANDLENS_FUZZ=100 takes each command with each trick, and BANDLENS_SEED other draws.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from fuzzing import TIMES, is_one_line
from hostile_databases import DAMAGED, TRICKS, make_hostile
from made_up_results import cell, image_set, part, store_study
from small import make_images, make_model, make_pictures, make_study
from usage import measure_usage

from bandlens.analysis.database.open import open_store
from bandlens.app.cli import app

SEED = int(os.environ.get("BANDLENS_SEED", "0"))
PROCESSOR_SECONDS = 10
"""A busy machine may take its time; what a command computes counts."""
MEGABYTES = 1000
ARGUMENTS = {
    "plan": "study.toml",
    "gate precision": "study.toml --candidate openvino:fp32",
    "gate release": "study.toml --against s",
    "run": "study.toml",
    "analyze": "",
    "report": "",
    "explore": "",
    "sql": "FROM|accuracy",
    "compare": "s s",
    "correlate": "",
    "consistency": "set",
    "verify": "",
    "rebuild": "study.toml --shards shards",
    "vacuum": "",
    "images show": "images.set --query SELECT|path|FROM|image --out shown",
    "images spectrum": "images.set",
    "import predictions": "predictions.csv --checkpoint net --images labels.csv",
    "published import": "critical-band-masking",
    "published show": "one",
    "published relate": "",
    "published table": "",
    "cite": "s",
    "studies list": "",
    "studies show": "s",
    "studies rename": "s t",
    "studies delete": "s --yes",
}
"""A command that opens a database -> its other arguments; | stands for a space in one of them."""


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


WITH_A_DATABASE = [
    name
    for name, command in commands(typer.main.get_command(app))
    if any(parameter.name == "db" for parameter in command.params)
    and name != "progress"  # it reads a file beside the database
]


def test_every_command_that_opens_a_database_has_arguments_here() -> None:
    assert sorted(WITH_A_DATABASE) == sorted(ARGUMENTS)


def pairs() -> list[tuple[str, str]]:
    """Every command and every trick once, or BANDLENS_FUZZ times with others."""
    tricks, size = list(TRICKS), max(len(ARGUMENTS), len(TRICKS))
    names = list(ARGUMENTS)
    drawn = [
        (names[k % len(names)], tricks[(k + shift + SEED) % len(tricks)])
        for shift in range(min(TIMES, len(tricks)))
        for k in range(size)
    ]
    return list(dict.fromkeys(drawn))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands need beside a database, and a sound one."""
    folder = tmp_path_factory.mktemp("workplace")
    make_model(folder / "models")
    make_images(folder / "images.set", make_pictures(8))
    make_study(folder)
    (folder / "shards").mkdir()
    pl.DataFrame({"file_name": ["a.png"], "label": [1]}).write_csv(folder / "labels.csv")
    table = {"file_name": ["a.png"], "predicted_class": [1], "predicted_probability": [0.5]}
    pl.DataFrame(table).write_csv(folder / "predictions.csv")
    images = image_set(4, labels=[0] * 4)
    with open_store(folder / "sound.duckdb") as store:
        store_study(store, "s", images, [part(cell(images), [0, 0, 0, 1], [0, 0, 0, 2])])
    return folder


@pytest.fixture(scope="module")
def hostile(folder: Path) -> dict[str, Path]:
    """Folders of the databases that were made, by their tricks."""
    return {}


@pytest.mark.parametrize(("name", "trick"), pairs())
def test_a_command_ends_in_one_line(name: str, trick: str, folder: Path, hostile: dict[str, Path]) -> None:
    if trick not in hostile:
        hostile[trick] = folder / f"hostile{len(hostile)}"
        hostile[trick].mkdir()
        make_hostile(trick, folder / "sound.duckdb", hostile[trick], SEED)
    copy = folder / "copy"  # a command may write what a log holds into its database
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(hostile[trick], copy)
    arguments = [word.replace("|", " ") for word in ARGUMENTS[name].split()]
    words = ["-q", *name.split(), *arguments, "--db", str(copy / "results.duckdb")]
    code, out, err, seconds, megabytes = measure_usage(words, folder)
    assert code in ((0, 1, 2) if trick in DAMAGED else (1, 2)), (out, err)
    # A gate that ran answers 1 when it does not pass, and prints its verdict.
    verdict = name == "gate" and trick in DAMAGED and "gates pass" in out
    if code and not verdict:
        assert out == ""
        assert is_one_line(err.removesuffix("\n")), err
        assert err.startswith("bandlens: ")
    assert seconds < PROCESSOR_SECONDS
    assert megabytes < MEGABYTES
