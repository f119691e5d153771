"""Everything bandlens raises on purpose.

    BandlensError            exit 1: the job failed
    ├── Undecided            exit 3: there are too few images to tell
    ├── UsageError           exit 2: what was asked for does not exist or makes no sense
    │   └── UnknownName          a name that is not known, with the nearest ones that are
    ├── CheckpointError      weights that cannot be fetched, trusted, or fitted to the architecture
    ├── ExportError          an ONNX model that could not be made, or does not compute what torch does
    ├── ImageSetError        images that cannot be read or packed, or a set that is damaged
    ├── ProbeError           a perturbation that fails, or returns something that is not a batch of images
    ├── EngineError          a session that cannot be opened or run
    │   └── DeviceError          a GPU that is out of memory or lost: the run ends, what is committed stays
    └── StoreError           a results database that cannot be opened, read or written

An error of another class, which nobody foresaw, is a line of the command line, too, and exit 70: see `app.cli`.

A message is one line: what happened, where, and what to do about it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from shlex import quote

from .untrusted import one_line, words_of

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the system for a full disk, a quota that is used up, and a file that may not grow further."""


def some_of(names: Iterable[str], limit: int = 3, between: str = ", ") -> str:
    """The first names of many, and how many more there are: `a, b, c and 4 more`."""
    names = list(names)
    rest = f"{between.rstrip(', ')} and {len(names) - limit} more" if len(names) > limit else ""
    return between.join(names[:limit]) + rest


def plural(count: int, noun: str) -> str:
    """A number of things in words: `1 study`, `2 studies`, `3 classes`, `1,000 rows`."""
    plurals = {"y": f"{noun[:-1]}ies", "s": f"{noun}es"}
    return f"{count:,} {noun if count == 1 else plurals.get(noun[-1], f'{noun}s')}"


def amount(count: float) -> str:
    """Bytes in words: 26 kB, 3.91 MB, 7.5 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    power = next((k for k in range(len(units)) if count < 999.5 * 1000**k), len(units) - 1)
    return f"{count / 1000**power:.3g} {units[power]}"


def quoted(word: object) -> str:
    """A path or another word of a shell command; in double quotes where it has single ones and needs no more."""
    text = str(word)
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else quote(text)


class BandlensError(Exception):
    """Base of all; the command line prints the message and exits with `exit_code`.

    The message is made one line that can be shown and stored: names and values in it come from files of others.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Undecided(BandlensError):
    exit_code = 3


class UsageError(BandlensError):
    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """The lines that a notebook shows, IPython's hook: what to do differently, without the way to it."""
        return [f"{type(self).__name__}: {self}"]


FEW_LETTERS = 2
"""The length of words that are not looked for inside of names, since too many names have them."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The nearest known names, as the next clause of a message: `; did you mean a or b?`; empty where none is near.

    Names that begin with the word come first, then names that hold it, then those that are like it.
    """
    word, by_word = name.lstrip("-"), {choice.lstrip("-"): choice for choice in names}  # dashes make no options alike
    matches = [choice for choice in by_word if word in choice] if len(word) > FEW_LETTERS else []
    matches = [choice for choice in matches if choice.startswith(word)] or matches
    matches = matches[:3] or get_close_matches(word, by_word, 3, 0.5)
    # A name that begins otherwise has to be nearer.
    if matches and word not in matches[0] and matches[0][:1] != word[:1]:
        matches = get_close_matches(word, matches, 3, 0.6)
    matches = [choice for choice in by_word if name.endswith(f".{choice}")] or [by_word[choice] for choice in matches]
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


class UnknownName(UsageError):
    """`UnknownName("checkpoint", "tv_resnet5", names)` gives the nearest known names."""

    def __init__(self, kind: str, name: str, names: Iterable[str], hint: str = "") -> None:
        names = list(names)
        near = did_you_mean(name, names)
        choices = f"; known: {', '.join(names)}" if not near and 0 < len(names) <= 12 else ""
        super().__init__(f"unknown {kind} '{name}'{near}{choices}{'; ' + hint if hint else ''}")


def unwritable(path: Path | str, error: OSError, advice: str) -> BandlensError:
    """The error for a file or folder that cannot be written: wrong use that `advice` mends, unless the disk is full.

    A job that finds no room has failed, whichever command it is, and no other name would mend it.
    """
    if error.errno in NO_ROOM:
        return BandlensError(f"cannot write {path}: {words_of(error)}; make room, and run the same command again")
    return UsageError(f"cannot write {path}: {words_of(error)}; {advice}")


def no_database(path: Path) -> UsageError:
    """The error for a results database that is to be read and is not there."""
    files = sorted(path.parent.glob("*.duckdb"))
    near = [str(file) for file in files if len(files) == 1 or did_you_mean(path.stem, [file.stem])]
    near = near or [str(file) for file in sorted(path.parent.glob(f"*/{path.name}"))]  # a look has a folder
    question = f"; did you mean {some_of(near, between=' or ')}?" if near else ""
    return UsageError(
        f"no results database at {path}{question}; `bandlens run STUDY.toml --db {quoted(path)}` makes one"
    )


@contextmanager
def writing(path: Path | str, advice: str) -> Iterator[None]:
    """Raise the error of `unwritable` where what is done here cannot write a file or folder."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, advice) from None


class CheckpointError(BandlensError):
    pass


class ExportError(BandlensError):
    pass


class ImageSetError(BandlensError):
    pass


class ProbeError(BandlensError):
    pass


class EngineError(BandlensError):
    pass


class DeviceError(EngineError):
    pass


class StoreError(BandlensError):
    pass


def duration(seconds: float) -> str:
    """Give seconds in words: 0.4 s, 12 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
