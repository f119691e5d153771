"""The command line. Each noun has its file in commands/; heavy libraries load when a command runs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..core.errors import NO_ROOM, BandlensError, unwritable
from ..core.untrusted import one_line
from ..core.version import __version__
from . import console

COMMANDS = {
    "Get ready": "doctor demo checkpoints export export-own images benchmarks probes measures",
    "Run": "init study plan power profile gate run progress import analyze sensitivity",
    "Look": "report explore cite",
    "Ask": "sql compare correlate consistency published",
    "Maintain": "studies merge verify rebuild vacuum",
}
"""The commands by the job that they do, in the order of help."""
PLACES = {"export-own": "export", "import": "imports", "vacuum": "studies"}
"""The files in commands/ of those commands that are not called after theirs."""


class LoadedCommands(Mapping[str, Any]):
    """Commands by their names. Each is loaded when it is looked up: loading all takes longer than most commands."""

    def __init__(self) -> None:
        self._names = " ".join(COMMANDS.values()).split()
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._loaded:
            module = import_module(f".commands.{PLACES.get(name, name)}", __package__)
            group = typer.Typer(rich_markup_mode=None, add_completion=False, callback=lambda: None)
            if command := getattr(module, name.replace("-", "_"), None):
                group.command(name)(command)
            else:
                group.add_typer(module.app, name=name)
            self._loaded[name] = typer.main.get_group(group).commands[name]
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Grouped(TyperGroup):
    """Loads commands as they are asked for, and lists them under headings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = LoadedCommands()  # type: ignore[assignment]  # nothing is added

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as typer calls it
        width = max(map(len, self.commands))
        for heading, names in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (f"{name:{width}}", self.commands[name].get_short_help_str(formatter.width - 6 - width))
                        for name in names.split()
                    ]
                )


app = typer.Typer(
    name="bandlens",
    cls=Grouped,
    help="Which image frequencies a classifier lives on, and whether that explains how well it generalizes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"bandlens {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # noqa: ARG001 - its callback has printed it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress and no notes.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show where in the code an error arose.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Append notes, progress and errors, with times.")
    ] = None,
) -> None:
    console.listen(quiet, verbose, log_file)


def _tell(message: str) -> None:
    console.log.error(f"bandlens: {message}", exc_info=console.log.isEnabledFor(console.VERBOSE))


def _flush_output() -> None:
    """Write what is still in memory of standard output, while an error of that can be told."""
    try:
        if isinstance(sys.stdout, TextIOWrapper):  # it is None where it was closed before the start
            sys.stdout.flush()
    except OSError:
        # Python flushes once more at its end, and would end with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _words_of_machine(error: OSError | MemoryError) -> str:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return str(unwritable(error.filename or "standard output", error, ""))
    return one_line(str(error)) or "out of memory"


def main() -> None:
    """Run the command line. Errors are one line on stderr, and the exit status is theirs: see `errors`."""
    gc.set_threshold(50_000)  # collecting after each 700 objects takes a tenth of the time of an export
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an encoding without a letter is no reason to end
            stream.reconfigure(errors="backslashreplace")
    console.listen()
    try:
        with console.guarded_terminal():
            try:
                app()
            finally:
                _flush_output()
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.exit(BandlensError.exit_code)
    except BandlensError as error:
        _tell(str(error))
        sys.exit(error.exit_code)
    except (OSError, MemoryError) as error:  # the machine raised it, and no better message is known
        _tell(_words_of_machine(error))
        sys.exit(BandlensError.exit_code)
