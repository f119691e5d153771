"""Printing of every command: tables and JSON on stdout, and on stderr notes, errors, and progress with rates."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..untrusted import printable

if TYPE_CHECKING:
    from ..advance import Advance

log = logging.getLogger("bandlens")
"""Takes what a command has to say beside its results: notes, warnings and errors, each a line."""
VERBOSE = logging.DEBUG
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_rows(
    rows: Sequence[Mapping[str, Any]], as_json: bool = False, title: str | None = None, whole: str = "--json"
) -> None:
    """Print rows as an aligned table, or as one JSON list of objects on stdout.

    On a terminal that is too narrow for all columns a line names the others; `whole` is what shows them.
    """
    if as_json:
        print(json.dumps(list(rows), indent=1, default=str))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width: let the longest row decide instead of leaving columns out.
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    cells = {name: [_cell(row[name]) for row in rows] for name in (rows[0] if rows else {})}
    columns, left_out = list(cells), ""
    if width is not None:
        columns, left_out = fitting(cells, width)
    table = Table(title=title and printable(title), title_justify="left", box=box.SIMPLE_HEAD)
    for name in columns:
        numeric = all(isinstance(row[name], (int, float)) or row[name] is None for row in rows)
        table.add_column(printable(name), justify="right" if numeric else "left", overflow="fold")
    for place in range(len(rows)):
        table.add_row(*(cells[name][place] for name in columns))
    console = Console(width=width or 1000, markup=False, emoji=False)  # [gpu] in a cell is no markup
    with console.capture() as captured:
        console.print(table if rows else "(nothing)")
    print("\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n"))
    if left_out:
        print(textwrap.fill(f"left out for width: {left_out}; {whole} shows all", width or 80, break_on_hyphens=False))


def print_lines(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print each row as lines of field and value, with a blank line between two rows."""
    longest = max((len(printable(name)) for name in (rows[0] if rows else ())), default=0)
    blocks = ["\n".join(f"{printable(name):<{longest}}  {_cell(row[name])}" for name in row) for row in rows]
    print("\n\n".join(blocks) or "(nothing)")


def fitting(cells: Mapping[str, Sequence[str]], width: int) -> tuple[list[str], str]:
    """The columns of a table that fit into so many characters, and the names of the others.

    Those go first that say least: what is empty, the same in every row, or JSON, whose numbers have columns of their
    own; then those at the right. An interval goes with both of its ends. One is always shown.
    """
    from rich.cells import cell_len

    # Two spaces and a line's width between columns, as rich draws SIMPLE_HEAD.
    needs = {name: 3 + max(map(cell_len, (name, *column))) for name, column in cells.items()}
    empty = [name for name, column in cells.items() if set(column) == {"-"}]
    same = [name for name, column in cells.items() if len(column) > 1 and len(set(column)) == 1 and name not in empty]
    json_ = [name for name, column in cells.items() if any(cell.startswith("{") for cell in column)]
    gone: list[str] = []
    for name in dict.fromkeys((*empty, *same, *json_, *reversed(list(cells)))):
        if sum(needs[one] for one in cells if one not in gone) + 1 <= width or len(gone) == len(cells) - 1:
            break
        gone.append(name)
    for name in [one for one in gone if one.endswith("high")]:
        low = f"{name.removesuffix('high')}low"
        if low in cells and low not in gone and len(gone) < len(cells) - 1:
            gone.append(low)
    if not gone:
        return list(cells), ""
    said = [f"{name} = {cells[name][0]}" if name in same else name for name in cells if name in gone]
    return [name for name in cells if name not in gone], ", ".join(said)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


class _Stderr(logging.Handler):
    """Prints on what is stderr by then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


_stderr = _Stderr()


def listen(quiet: bool = False, verbose: bool = False, file: Path | None = None) -> None:
    """Have stderr say what is logged, or with `quiet` warnings and errors alone, and append all of it to a file.

    With `verbose`, errors are logged with the place in the code where they arose. UsageError where the file cannot be
    written.
    """
    for one in log.handlers[:]:
        log.removeHandler(one)
        one.close()
    log.setLevel(VERBOSE if verbose else logging.INFO)
    _stderr.setLevel(logging.WARNING if quiet else logging.INFO)
    log.addHandler(_stderr)
    if file is not None:
        try:
            kept = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write the log {file}: {error.strerror}; name another with --log") from error
        kept.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(kept)


@contextmanager
def progress(what: str, total: float | None, unit: str, delay: float = 1) -> Iterator[Advance]:
    """A bar on stderr with count, rate and ETA; a logged line every ten seconds where that is not a terminal.

    It shows at the first advance after `delay` seconds; at once if that is 0, for work whose first step is long.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty() and _stderr.level <= logging.INFO
    with tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        unit_scale=True,
        file=sys.stderr if terminal else _Lines(),
        mininterval=0.2 if terminal else 10,
        maxinterval=10,
        dynamic_ncols=terminal,
        leave=terminal,
        delay=delay,
    ) as bar:

        def advance(amount: float = 1, /) -> None:
            bar.update(amount)

        yield advance


class _Lines:
    """A log has no lines to go back over: each state of the bar becomes a line of its own."""

    def write(self, text: str) -> None:
        if line := text.replace("\r", "").strip():
            log.info(line)

    def flush(self) -> None:
        pass


def duration(seconds: float) -> str:
    """Seconds in words: 0.4 s, 12 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def setting_in_words(probe: str, parameters: str | None) -> str:
    """The parameters of a condition, which SQL gives as JSON, as `cutoff=0.2, size=3`."""
    from ..probes.grid import setting_in_words as in_words

    return in_words(probe, json.loads(parameters or "{}"))


def condition_in_words(row: Mapping[str, Any]) -> str:
    """The condition of a row with probe and parameters, as `lowpass cutoff=0.2`."""
    return f"{row['probe'] or ''} {setting_in_words(row['probe'], row['parameters'])}".strip()
