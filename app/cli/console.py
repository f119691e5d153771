"""The output of a command beside its results: notes, errors, and progress with rates, on stderr."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from ...core.jobs import slow_step
from ...core.log import log
from ...core.untrusted import printable

if TYPE_CHECKING:
    from ...core.jobs import Advance

VERBOSE = logging.DEBUG
LINE_SECONDS = 60
"""Seconds between two lines of progress where standard error is no terminal: a log of a day has 1,440 of them."""


class Terminal(TextIOWrapper):
    """Standard output where it is a terminal, which shows the signs that it would otherwise obey, but tabs."""

    def write(self, text: str, /) -> int:
        return super().write(printable(text, exceptions="\n\t"))

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


class _Stderr(logging.Handler):
    """A handler that prints on stderr as it is at the moment of printing, not as it was at import."""

    def emit(self, record: logging.LogRecord) -> None:
        # A bar is erased, and drawn again below the line. Without a terminal, bars are lines of the log themselves: the
        # thread that draws one has tqdm's lock and waits for that of the log, so this one must not wait for tqdm's.
        bars = sys.modules.get("tqdm") if sys.stderr.isatty() else None
        with bars.tqdm.external_write_mode(file=sys.stderr) if bars else nullcontext():
            print(printable(self.format(record), exceptions="\n\t"), file=sys.stderr)


_stderr = _Stderr()


def listen(quiet: bool = False, verbose: bool = False) -> None:
    """Have stderr say what is logged, or with `quiet` warnings and errors alone.

    With `verbose`, errors are logged with the place in the code where they arose.
    """
    log.setLevel(VERBOSE if verbose else logging.INFO)
    _stderr.setLevel(logging.WARNING if quiet else logging.INFO)
    log.addHandler(_stderr)


@contextmanager
def progress(title: str, total: float | None, unit: str, delay: float = 1) -> Iterator[Advance]:
    """A bar on stderr with count, rate and ETA; a logged line a minute where that is no terminal and no notebook.

    It shows at the first advance after `delay` seconds; at once if that is 0, for work whose first step is long.
    """
    from tqdm import tqdm

    title = printable(title, exceptions="")  # it may have a name of somebody else's
    # With unit_scale, which shortens rates, tqdm writes a count of 1 as 1.00.
    if total is None:
        form = f"{{desc}}: {{n:,.0f}} {unit} [{{elapsed}}, {{rate_fmt}}]"
    else:
        form = "{l_bar}{bar}| {n:,.0f}/{total:,.0f} [{elapsed}<{remaining}, {rate_fmt}]"
    is_notebook = type(sys.stderr).__module__.startswith("ipykernel.")  # whose cells draw a line anew, too
    terminal = (is_notebook or sys.stderr.isatty()) and _stderr.level <= logging.INFO
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
        end = threading.Event()
        watch = threading.Thread(target=_name_slow_steps, args=[bar, title, end], name="slow steps", daemon=True)
        watch.start()
        try:
            yield advance
        finally:
            end.set()
            watch.join()


def _name_slow_steps(bar: Any, title: str, end: threading.Event) -> None:
    slow = ""
    while not end.wait(bar.maxinterval):
        last_step, slow = slow, slow_step()
        if slow or last_step:
            bar.set_description_str(f"{title} ({slow})" if slow else title)


class _Lines:
    """A stream that logs each state of the bar as a line of its own, since a log has no line to overwrite."""

    def write(self, text: str) -> None:
        if line := text.replace("\r", "").strip():
            log.info(line)

    def flush(self) -> None:
        pass
