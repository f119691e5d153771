from __future__ import annotations

import errno
import os

import pytest

from bandlens.core.errors import UsageError, amount, plural, quoted, unwritable


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "study", "1 study"), (2, "study", "2 studies"), (3, "class", "3 classes"), (1000, "cell", "1,000 cells")],
)
def test_a_count_has_its_noun_in_the_singular_or_plural(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (899_000, "899 kB"), (3_906_000, "3.91 MB"), (999_600_000, "1 GB")],
)
def test_bytes_have_the_unit_that_fits(count: int, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize(
    ("word", "text"), [("nets:f('x')", "\"nets:f('x')\""), ("a b", "'a b'"), ("f('$x')", "'f('\"'\"'$x'\"'\"')'")]
)
def test_a_word_of_a_command_has_double_quotes_where_these_are_enough(word: str, text: str) -> None:
    assert quoted(word) == text


@pytest.mark.parametrize(
    ("number", "code", "advice"),
    [(errno.ENOSPC, 1, "make room, and run the same command again"), (errno.ENOTDIR, 2, "name another file")],
)
def test_a_full_disk_is_a_failed_job_and_a_wrong_name_is_wrong_use(number: int, code: int, advice: str) -> None:
    error = unwritable("out.csv", OSError(number, os.strerror(number)), "name another file")
    assert (error.exit_code, str(error)) == (code, f"cannot write out.csv: {os.strerror(number)}; {advice}")


def test_an_error_without_a_number_is_told_in_its_own_words() -> None:
    error = unwritable("out.csv", OSError("not a pipe"), "name another file")
    assert str(error) == "cannot write out.csv: not a pipe; name another file"


def test_a_notebook_shows_the_line_of_wrong_use_alone() -> None:
    assert UsageError("no such\nstudy")._render_traceback_() == ["UsageError: no such study"]
