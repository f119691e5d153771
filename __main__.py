"""The command `bandlens`. Signals are obeyed before anything that takes time is imported."""

from __future__ import annotations

import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> None:
    """Run the command line; once interrupted, exit with 128 and the number of the signal: 130 for Ctrl-C."""
    _open_streams()
    from .app.cli import signals

    signals.obey()
    sys.unraisablehook = _show_unraisable
    try:
        try:
            from .app.cli.main import main
            from .core.timeouts import has_stuck_call

            main()
        except SystemExit as end:
            if not (signals.interrupted() or has_stuck_call()):
                atexit._run_exitfuncs()
            if signals.interrupted():  # also where the command line's library made an exit of Ctrl-C
                raise
            _leave(end.code if isinstance(end.code, int) else bool(end.code))
    except BaseException:
        if signals.interrupted():
            _leave(signals.tell())
        raise


def _show_unraisable(error: sys.UnraisableHookArgs) -> None:
    """Show an error that nobody can handle, unless a signal interrupted a function of atexit, which would go on."""
    from .app.cli import signals

    if not signals.interrupted():
        sys.__unraisablehook__(error)


def _leave(status: int) -> NoReturn:
    """End now: Python's own end waits for threads, may crash one at work, and lets a signal kill the process.

    A signal that comes before the last line is obeyed as any other.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):  # nobody reads it, or it is closed
            continue
        except OSError as error:
            status = status or 1
            if stream is sys.stdout:
                os.write(2, f"bandlens: cannot write all of the output: {error.strerror}\n".encode())
    os._exit(status)


def _open_streams() -> None:
    """Open to nowhere what was closed from the start, as by 2>&-.

    The next file to be opened would else get its number, and messages would end in that: it may be the database.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    # Results get a number of their own: what libraries, and programs that they start, print goes to standard error.
    sys.stdout = sys.__stdout__ = os.fdopen(  # type: ignore[misc]
        os.dup(1), "w", 1 if sys.stdout.isatty() else -1, sys.stdout.encoding
    )
    os.dup2(2, 1)


if __name__ == "__main__":
    main()
