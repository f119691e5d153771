"""Tables on a terminal: what fits, and what is said of the rest."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_up_results import cell, image_set, part, store_study

from bandlens.analysis.database.open import open_store


def on_a_terminal(command: Sequence[str], columns: int = 80) -> list[str]:
    """The lines that a command prints on stdout, which is a terminal of so many columns."""
    control_end, terminal_end = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "dumb"}
    with subprocess.Popen(command, stdout=terminal_end, env=environment):
        os.close(terminal_end)
        output = b""
        try:
            while piece := os.read(control_end, 1 << 16):
                output += piece
        except OSError:  # the other end is closed
            pass
    os.close(control_end)
    return output.decode().replace("\r", "").splitlines()


HOSTILE = "\x1b[2J\x9b31m\u202egnp.exe"
"""A text that clears a terminal, colours it, and turns the direction of what follows."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a study whose text and whose image paths are somebody else's."""
    path, images = tmp_path_factory.mktemp("hostile") / "results.duckdb", image_set(4, labels=[0] * 4)
    with open_store(path) as store:
        parts = [part(cell(images), [0, 0, 0, 1], [0, 0, 0, 2])]
        store_study(store, "s", images, parts)
        store.execute("UPDATE study SET toml = ?", [f"# {HOSTILE}"])
        store.execute("UPDATE image SET path = ?", [HOSTILE])
    return path


PATHS = ("sql", "SELECT path, 'a\tb' AS tab FROM image")


@pytest.mark.parametrize(
    "words",
    [
        *((*PATHS, "--format", name) for name in ("table", "tsv")),
        ("studies", "show", "s"),
    ],
    ids=lambda words: "-".join(words[2:]),
)
def test_a_terminal_shows_escapes_that_a_pipe_gets_as_they_are(hostile: Path, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-P", "-m", "bandlens", *words, "--db", str(hostile)]
    screen = "\n".join(on_a_terminal(command, 200))
    assert not {"\x1b", "\x9b", "\u202e"} & set(screen), screen
    assert "u202egnp.exe" in screen
    if words[-1] in ("tsv", "s"):
        piped = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        assert HOSTILE in piped
    if words[-1] == "tsv":
        assert 'gnp.exe\t"a\tb"' in screen
