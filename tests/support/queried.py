"""A results database of two cells, and the line of a query that is refused."""

from __future__ import annotations

from pathlib import Path

from made_up_results import cell, condition, database_of, image_set, part
from small import Answer

QUERY = "SELECT probe, cutoff, n, top1 FROM accuracy ORDER BY probe"


def make_queried(folder: Path) -> Path:
    """The database of a study with a clean cell and one of a low-pass, of four images each."""
    images = image_set(4, labels=[0] * 4)
    low = condition("lowpass", cutoff=0.5)
    parts = [part(cell(images), [0, 0, 0, 1], [0, 0, 0, 2]), part(cell(images, low), [0, 0, 2, 1], [0, 0, 6, 2])]
    return database_of(folder, images, parts)


def refusal(answer: Answer, code: int = 1) -> str:
    """The one line on standard error of a command that printed nothing else."""
    assert answer.code == code
    assert answer.out == ""
    assert answer.err.startswith("bandlens: ")
    assert answer.err.count("\n") == 1
    return answer.err
