"""Error classes of bandlens, and helpers to write their messages.

    BandlensError            exit status 1: the command failed
    ├── Undecided            exit status 3: too few images for a decision
    ├── UsageError           exit status 2: an invalid request, for example a file that does not exist
    │   └── UnknownName          an unknown name; the message suggests similar known names
    ├── CheckpointError      weights that cannot be downloaded, cannot be trusted, or do not fit the architecture
    ├── ExportError          a model that cannot be exported to ONNX, or whose outputs differ from PyTorch
    ├── ImageSetError        images that cannot be read or packed, or a corrupt image set
    ├── ProbeError           a probe that fails, or that does not return a batch of images
    ├── EngineError          a session that cannot be opened or run
    │   └── DeviceError          a GPU that is out of memory or lost: the run ends, committed results are kept
    └── StoreError           a results database that cannot be opened, read or written

Any other exception is a bug. The command line reports it in one line as well and exits with status 70 (see `app.cli`).

Every message is one line that states what failed, where, and what to do.
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
"""Error numbers of a full disk, an exhausted disk quota and a file that has reached its maximum size."""


def some_of(names: Iterable[str], limit: int = 3, between: str = ", ") -> str:
    """Join the first `limit` names and add the number of the others: `a, b, c and 4 more`."""
    names = list(names)
    rest = f"{between.rstrip(', ')} and {len(names) - limit} more" if len(names) > limit else ""
    return between.join(names[:limit]) + rest


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: `1 study`, `2 studies`, `3 classes`, `1,000 rows`."""
    plurals = {"y": f"{noun[:-1]}ies", "s": f"{noun}es"}
    return f"{count:,} {noun if count == 1 else plurals.get(noun[-1], f'{noun}s')}"


def amount(count: float) -> str:
    """Format a number of bytes: 26 kB, 3.91 MB, 7.5 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    power = next((k for k in range(len(units)) if count < 999.5 * 1000**k), len(units) - 1)
    return f"{count / 1000**power:.3g} {units[power]}"


def quoted(word: object) -> str:
    """Quote a path or another argument of a shell command.

    Text that contains single quotes is put in double quotes if that suffices, because this is easier to read than the
    escapes of `shlex.quote`.
    """
    text = str(word)
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else quote(text)


class BandlensError(Exception):
    """Base class of all errors that bandlens raises deliberately.

    The command line prints the message and exits with `exit_code`. Messages can contain names and values from untrusted
    files, so the constructor reduces the message to one printable line without secrets.

    Args:
        message: What failed, where, and what to do.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Undecided(BandlensError):
    """Too few images to decide."""

    exit_code = 3


class UsageError(BandlensError):
    """An invalid request: something that does not exist, or a combination of settings that makes no sense."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """Return the lines that a notebook shows: the message without a traceback. IPython calls this hook."""
        return [f"{type(self).__name__}: {self}"]


FEW_LETTERS = 2
"""Words of up to this length are not searched for inside known names, because too many names contain them."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Suggest known names that are similar to an unknown one, as a clause of a message: `; did you mean a or b?`.

    Names that start with the given one are preferred, then names that contain it, then names with a similar spelling.
    The result is empty if no name is similar.
    """
    # Leading dashes are ignored, because they would make all option names similar to each other.
    word, by_word = name.lstrip("-"), {choice.lstrip("-"): choice for choice in names}
    matches = [choice for choice in by_word if word in choice] if len(word) > FEW_LETTERS else []
    matches = [choice for choice in matches if choice.startswith(word)] or matches
    matches = matches[:3] or get_close_matches(word, by_word, 3, 0.5)
    # Names with a different first letter are rarely meant, so they must be more similar.
    if matches and word not in matches[0] and matches[0][:1] != word[:1]:
        matches = get_close_matches(word, matches, 3, 0.6)
    matches = [choice for choice in by_word if name.endswith(f".{choice}")] or [by_word[choice] for choice in matches]
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


class UnknownName(UsageError):
    """A name that is not among the known ones, for example `UnknownName("checkpoint", "tv_resnet5", names)`.

    The message suggests similar names. If there are none and at most twelve names are known, it lists them all.

    Args:
        kind: What the name refers to, such as `checkpoint`.
        name: The unknown name.
        names: All known names.
        hint: Advice for the end of the message.
    """

    def __init__(self, kind: str, name: str, names: Iterable[str], hint: str = "") -> None:
        names = list(names)
        near = did_you_mean(name, names)
        choices = f"; known: {', '.join(names)}" if not near and 0 < len(names) <= 12 else ""
        super().__init__(f"unknown {kind} '{name}'{near}{choices}{'; ' + hint if hint else ''}")


def unwritable(path: Path | str, error: OSError, advice: str) -> BandlensError:
    """Return the error for a file or folder that cannot be written.

    Usually the path is wrong, so the error is a `UsageError` that ends with `advice`. A full disk is not a usage error,
    because another path would not help: the error is then a plain `BandlensError`.
    """
    if error.errno in NO_ROOM:
        return BandlensError(f"cannot write {path}: {words_of(error)}; make room, and run the same command again")
    return UsageError(f"cannot write {path}: {words_of(error)}; {advice}")


def no_database(path: Path) -> UsageError:
    """Return the error for a results database that does not exist. It suggests databases in nearby folders."""
    files = sorted(path.parent.glob("*.duckdb"))
    near = [str(file) for file in files if len(files) == 1 or did_you_mean(path.stem, [file.stem])]
    # `bandlens look` writes its database into a folder of its own.
    near = near or [str(file) for file in sorted(path.parent.glob(f"*/{path.name}"))]
    question = f"; did you mean {some_of(near, between=' or ')}?" if near else ""
    return UsageError(
        f"no results database at {path}{question}; `bandlens run STUDY.toml --db {quoted(path)}` makes one"
    )


@contextmanager
def writing(path: Path | str, advice: str) -> Iterator[None]:
    """Convert an OSError in the block to the error of `unwritable`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, advice) from None


class CheckpointError(BandlensError):
    """Weights that cannot be downloaded, cannot be trusted, or do not fit the architecture."""


class ExportError(BandlensError):
    """A model that cannot be exported to ONNX, or whose exported outputs differ from those of PyTorch."""


class ImageSetError(BandlensError):
    """Images that cannot be read or packed, or a corrupt image set."""


class ProbeError(BandlensError):
    """A probe that fails, or that does not return a batch of images."""


class EngineError(BandlensError):
    """An engine session that cannot be opened or run."""


class DeviceError(EngineError):
    """A GPU that is out of memory or lost. The run ends; results that were committed are kept."""


class StoreError(BandlensError):
    """A results database that cannot be opened, read or written."""


def duration(seconds: float) -> str:
    """Format a duration: 0.4 s, 12 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
