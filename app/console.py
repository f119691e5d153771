"""Printing of every command: tables and JSON on stdout, and on stderr notes, errors, and progress with rates."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from io import TextIOWrapper
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import unwritable
from ..core.progress import slow_step
from ..core.untrusted import printable
from .formats import Format, Rows, csv_text, json_text, paper_text
from .tables import TableLayout, cell_text, draw, lay_out

if TYPE_CHECKING:
    from ..core.progress import Advance

log = logging.getLogger("bandlens")
"""The log of what a command says beside its results: notes, warnings and errors, each a line."""
VERBOSE = logging.DEBUG
LINE_SECONDS = 60
"""Seconds between two lines of progress where standard error is no terminal: a log of a day has 1,440 of them."""
TableFormat = Annotated[
    Format,
    typer.Option(
        "--format", help="How tables are written: csv and json with all digits, markdown and latex with four."
    ),
]


class Terminal(TextIOWrapper):
    """Standard output where it is a terminal, which shows the signs that it would otherwise obey, but tabs."""

    def write(self, text: str, /) -> int:
        return super().write(printable(text, kept="\n\t"))

    def isatty(self) -> bool:
        return True


@contextmanager
def guarded_terminal() -> Iterator[None]:
    """Have whatever the block prints on standard output pass through `Terminal`, if that is a terminal.

    What a database, a study or a checkpoint says may be somebody else's. A file and a pipe get it as it is.
    """
    stdout = sys.stdout
    if not (isinstance(stdout, TextIOWrapper) and stdout.isatty()):
        yield
        return
    terminal = Terminal(stdout.buffer, stdout.encoding, stdout.errors, line_buffering=stdout.line_buffering)
    sys.stdout = terminal
    try:
        yield
    finally:
        sys.stdout = stdout
        terminal.detach()  # else its end would close the buffer


def print_rows(
    rows: Rows,
    table_format: Format = Format.table,
    title: str | None = None,
    *,
    titles: Sequence[str] = (),
    whole: str = "--format json",
) -> None:
    """Print rows as an aligned table, or in the format that is asked for, with nothing beside them on stdout.

    On a terminal that is too narrow, names are shortened, the columns in `titles` become headings, and numbers that
    have no room continue below (`tables.lay_out`). A line names the texts that are left out, and `whole` shows them.
    """
    if table_format == Format.json:
        print(json_text(list(rows)))
    elif not rows:
        print_note("(nothing)", table_format)
    elif table_format == Format.csv:
        print(csv_text(rows), end="")
    elif table_format == Format.table:
        _print_layout(rows, title, titles, whole)
    else:
        print(paper_text({name: [row[name] for row in rows] for name in rows[0]}, table_format, title))


def print_table(rows: Rows, table_format: TableFormat = Format.table) -> None:
    """Print the rows that a function of `api` returns, where nothing more is to be said."""
    print_rows(rows, table_format)


def print_tables(tables: Mapping[str, Rows], table_format: Format, *, titles: Sequence[str] = ()) -> None:
    """Print tables under their titles. CSV is one table, in which a first column `table` has the titles."""
    if table_format == Format.json:
        print(json_text(tables))
    elif table_format == Format.csv:
        print_rows([{"table": title, **row} for title, rows in tables.items() for row in rows], table_format)
    else:
        for place, (title, rows) in enumerate(tables.items()):
            if place:
                print()
            print_rows(rows, table_format, title, titles=titles)


def print_document(document: Mapping[str, Any], table_format: Format) -> None:
    """Print all that a command found. Whatever is no list is a row of the table `summary`, except in JSON."""
    if table_format == Format.json:
        print(json_text(document))
        return
    summary = {name: value for name, value in document.items() if not isinstance(value, list)}
    tables = {
        name: [row if isinstance(row, dict) else {name: row} for row in rows]
        for name, rows in document.items()
        if isinstance(rows, list) and rows
    }
    print_tables({"summary": [summary], **tables} if summary else tables, table_format)


def print_note(text: str, table_format: Format) -> None:
    """Print a sentence beside tables: on stdout where these are for the terminal, else on stderr."""
    if table_format == Format.table:
        print(text)
    else:
        log.info(text.strip())


def _print_layout(rows: Rows, title: str | None, titles: Sequence[str], whole: str) -> None:
    # A pipe has no width: let the longest row decide instead of shortening anything.
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    cells = {printable(name): [cell_text(row[name]) for row in rows] for name in rows[0]}
    numeric = {
        printable(name)
        for name in rows[0]
        if all(isinstance(row[name], (int, float)) or row[name] is None for row in rows)
    }
    layout = TableLayout([("", [cells])]) if width is None else lay_out(cells, width, titles)
    for place, (heading, blocks) in enumerate(layout.parts):
        if place:
            print()
        if heading := ": ".join(filter(None, (title and printable(title), heading))):
            print(_fill_text(heading, width), end="\n\n")
        print("\n\n".join(draw(block, numeric) for block in blocks))
    if layout.repeated:
        values = ", ".join(f"{name} = {value}" for name, value in layout.repeated.items())
        print(_fill_text(f"in every row: {values}", width))
    if layout.left_out:
        print(_fill_text(f"left out for width: {', '.join(layout.left_out)}; {whole} shows all", width))


def _fill_text(text: str, width: int | None) -> str:
    return text if width is None else textwrap.fill(text, width, break_on_hyphens=False)


def print_lines(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print each row as lines of field and value, with a blank line between two rows."""
    longest = max((len(printable(name)) for name in (rows[0] if rows else ())), default=0)
    blocks = ["\n".join(f"{printable(name):<{longest}}  {cell_text(row[name])}" for name in row) for row in rows]
    print("\n\n".join(blocks) or "(nothing)")


class _Stderr(logging.Handler):
    """A handler that prints on stderr as it is at the moment of printing, not as it was at import."""

    def emit(self, record: logging.LogRecord) -> None:
        # A bar is erased, and drawn again below the line. Without a terminal, bars are lines of the log themselves: the
        # thread that draws one has tqdm's lock and waits for that of the log, so this one must not wait for tqdm's.
        bars = sys.modules.get("tqdm") if sys.stderr.isatty() else None
        with bars.tqdm.external_write_mode(file=sys.stderr) if bars else nullcontext():
            print(printable(self.format(record), kept="\n\t"), file=sys.stderr)


_stderr = _Stderr()


def listen(quiet: bool = False, verbose: bool = False, file: Path | None = None) -> None:
    """Have stderr say what is logged, or with `quiet` warnings and errors alone, and append all of it to a file.

    With `verbose`, errors are logged with the place in the code where they arose. UsageError where the file cannot be
    written.
    """
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.setLevel(VERBOSE if verbose else logging.INFO)
    _stderr.setLevel(logging.WARNING if quiet else logging.INFO)
    log.addHandler(_stderr)
    if file is not None:
        try:
            log_file = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise unwritable(f"the log {file}", error, "name another with --log") from error
        log_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(log_file)


@contextmanager
def progress(title: str, total: float | None, unit: str, delay: float = 1) -> Iterator[Advance]:
    """A bar on stderr with count, rate and ETA; a logged line a minute where that is not a terminal.

    It shows at the first advance after `delay` seconds; at once if that is 0, for work whose first step is long.
    """
    from tqdm import tqdm

    # With unit_scale, which shortens rates, tqdm writes a count of 1 as 1.00.
    if total is None:
        form = f"{{desc}}: {{n:,.0f}} {unit} [{{elapsed}}, {{rate_fmt}}]"
    else:
        form = "{l_bar}{bar}| {n:,.0f}/{total:,.0f} [{elapsed}<{remaining}, {rate_fmt}]"
    terminal = sys.stderr.isatty() and _stderr.level <= logging.INFO
    with tqdm(
        total=total,
        bar_format=form,
        desc=title,
        unit=f" {unit}",
        unit_scale=True,
        file=sys.stderr if terminal else _Lines(),
        mininterval=0.2 if terminal else LINE_SECONDS,
        maxinterval=10 if terminal else LINE_SECONDS,
        dynamic_ncols=terminal,
        leave=terminal,
        delay=delay,
    ) as bar:

        def advance(amount: float = 1, /) -> None:
            # Fractions may add up to a little more than the total, which tqdm warns of.
            bar.update(amount if total is None else min(amount, total - bar.n))

        # A thread names the step that takes long, since nothing advances meanwhile.
        ended = threading.Event()
        watch = threading.Thread(target=_name_slow_steps, args=[bar, title, ended], name="slow steps", daemon=True)
        watch.start()
        try:
            yield advance
        finally:
            ended.set()
            watch.join()


def _name_slow_steps(bar: Any, title: str, ended: threading.Event) -> None:
    slow = ""
    while not ended.wait(bar.maxinterval):
        before, slow = slow, slow_step()
        if slow or before:
            bar.set_description_str(f"{title} ({slow})" if slow else title)


class _Lines:
    """A stream that logs each state of the bar as a line of its own, since a log has no line to overwrite."""

    def write(self, text: str) -> None:
        if line := text.replace("\r", "").strip():
            log.info(line)

    def flush(self) -> None:
        pass


def duration(seconds: float) -> str:
    """Give seconds in words: 0.4 s, 12 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def setting_in_words(probe: str, parameters: str | None, cycles: float | None = None) -> str:
    """The setting of a condition, whose parameters SQL gives as JSON, as `noise_sd=0.2, frequency=3`.

    With cycles per image, a filter's is `below 22 cycles/image` and a band's `noise_sd=0.2, at 14 cycles/image`.
    """
    from ..probes.grid import setting_in_words as in_words

    return in_words(probe, json.loads(parameters or "{}"), cycles)


def condition_in_words(row: Mapping[str, Any]) -> str:
    """The condition of a row with probe, parameters and cycles, as `lowpass below 22 cycles/image`."""
    return f"{row['probe'] or ''} {setting_in_words(row['probe'], row['parameters'], row['cycles'])}".strip()
