"""The command line. Each noun has its file in commands/; heavy libraries load when a command runs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from itertools import pairwise
from textwrap import shorten
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ...core import __version__
from ...core.errors import NO_ROOM, BandlensError, UnknownName, UsageError, quoted, unwritable
from ...core.log import log
from ...core.untrusted import one_line, words_of
from . import console, signals

COMMANDS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Start": {
        "look": ("look", "Find out which frequencies a model lives on: one call, about a minute"),
        "demo": ("look", "Look at a real classifier on real pictures that come with packages"),
        "sample": ("databases", "Write real results into a new database, to look at before anything is run"),
        "doctor": ("models", "Say what this machine can run"),
    },
    "Prepare": {
        "export": ("export", "Export checkpoints to ONNX, and to TensorRT plans where there is a GPU"),
        "images": ("images", "Image sets: photographs decoded once to a memory-mapped file of pixels"),
        "probes": ("images", "Perturbations: what there is, and what it looks like"),
        "init": ("studies", "Write a study file for your models and images, asking nothing"),
    },
    "Run": {
        "plan": ("studies", "Show what a run would do"),
        "run": ("studies", "Run what the database lacks of a study"),
        "analyze": ("results", "Compute spectral, critical-band and shape biases, and group means"),
    },
    "Look": {
        "report": ("results", "Write one HTML file to look at and send"),
        "explore": ("results", "Look at a results database in a browser"),
    },
    "Ask": {
        "sql": ("databases", "Ask the results database"),
        "compare": ("results", "Compare two runs image by image"),
        "gate": ("gate", "Judge a release by the one before it (`gate STUDY --against …`), or a precision by another"),
        "correlate": ("results", "Correlate every bias with every kind of generalization"),
    },
    "Advanced": {
        "checkpoints": ("models", "The 48 ResNet-50 checkpoints: list them, fetch them, verify them"),
        "benchmarks": ("images", "The generalization benchmarks of the study: list them, check them, pack them"),
        "measures": ("results", "Numbers that are computed of decisions: what there is"),
        "power": ("studies", "Print the smallest difference and correlation that 80 % of studies find"),
        "progress": ("studies", "Say how far the run is that holds a results database, and how long it will take"),
        "import": ("studies", "Bring what was made elsewhere into a results database"),
        "sensitivity": ("models", "Measure along which frequencies the loss of a model rises"),
        "consistency": ("results", "Print how consistent the errors of models and humans are"),
        "published": ("published", "Published figures: import and show them"),
        "studies": ("databases", "The studies in a results database: list, show, rename and delete them"),
        "merge": ("databases", "Write what several databases hold into a new one"),
        "verify": ("databases", "Check that a database agrees with itself"),
    },
}
"""The commands by the job that they do, in the order of a first day, each with its module and its line in help.

A line is the first clause of the command's own help, and stands here so that help loads no command.
"""


FAULT_STATUS = 70
"""The exit status after an error that nobody foresaw; sysexits.h calls it EX_SOFTWARE."""


class StudyWord(TyperCommand):
    """A command that takes a first word as the study or database, where it has options for these and no arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the option in front of such a word."""
        names = {parameter.name for parameter in self.params}
        has_arguments = any(parameter.param_type_name == "argument" for parameter in self.params)
        if args and not args[0].startswith("-") and {"db", "study"} <= names and not has_arguments:
            from ...analysis.database.open import names_database

            is_database = names_database(args[0]) and not args[0].endswith(".toml")
            args = ["--db" if is_database else "--study", *args]
        return super().parse_args(ctx, args)


class LoadedCommands(Mapping[str, Any]):
    """Commands by their names. Each is loaded when it is looked up: loading all takes longer than most commands."""

    def __init__(self) -> None:
        self._lines = {name: line for commands in COMMANDS.values() for name, line in commands.items()}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module_name, line = self._lines[name]
            module = import_module(f".commands.{module_name}", __package__)
            group = typer.Typer(rich_markup_mode=None, add_completion=False, callback=lambda: None)
            commands = module.COMMANDS
            if isinstance(commands[name], dict):
                below = typer.Typer(name=name, help=f"{line}.", no_args_is_help=True, rich_markup_mode=None)
                for word, function in commands[name].items():
                    below.command(word)(function)
                group.add_typer(below)
            elif isinstance(commands[name], typer.Typer):
                group.add_typer(commands[name], name=name)
            else:
                group.command(name, cls=StudyWord)(commands[name])
            self._loaded[name] = typer.main.get_group(group).commands[name]
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


WRONG_WORDS: Any = typer.BadParameter.__base__
"""The error for words of a command line that make no sense; typer gives it no public name."""


def _unknown_option(option: str, context: Any, see: str) -> UnknownName:
    """The error for an option that a command does not have, and that may be a key of the study file."""
    from ..study.file import KEYS

    key = option.lstrip("-").replace("-", "_")
    names = [name for parameter in context.command.params for name in parameter.opts]
    if any(option in parameter.opts for parameter in context.find_root().command.params if context.parent):
        return UnknownName("option", option, [], f"it stands in front: bandlens {option} {context.info_name} …; {see}")
    if argument := next((option for option in context.command.params if option.opts == [key]), None):
        return UnknownName("option", option, [], f"it is an argument: {context.command_path} {argument.metavar}")
    if context.parent is None:
        see = f"an option of a command stands behind the command's name; {see}"
    elif {"study", "--study"} & {*names} and key in KEYS and not any(name.startswith(option) for name in names):
        return UnknownName("option", option, [], f"{key} is a key of a study, which its file gives")
    return UnknownName("option", option, [name for name in names if name.startswith("-")], see)


def _advice_on_words(message: str, context: Any) -> str:
    """The advice on words of a command line that are missing or too many."""
    arguments = [option for option in context.command.params if option.param_type_name == "argument"]
    words = [message, *(str(context.params.get(argument.name)) for argument in arguments)]
    if "db" in context.params and any(".duckdb" in word for word in words):
        return "a database is named with --db"
    if context.info_name == "sql" and "unexpected" in message and " " not in words[-1]:
        return "put a text with spaces into quotes"
    return f"usage: {' '.join([context.command_path, *(argument.metavar for argument in arguments)])}"


@contextmanager
def _lines_of_typer(ctx: Any) -> Iterator[None]:
    """Raise UsageError where a word is missing, wrong or not known, with what it is."""
    try:
        yield
    except WRONG_WORDS as error:
        message, context = error.format_message().rstrip(".").replace("Value error, ", ""), error.ctx or ctx
        if message.startswith("Usage:"):  # the help, which stands for words that are missing altogether
            raise
        see = f"see `{context.command_path} --help`"
        if hasattr(error, "possibilities"):
            raise _unknown_option(error.option_name, context, see) from None
        text = (getattr(getattr(error, "param", None), "help", None) or "").rstrip(".")
        if "unexpected extra" in message or message.startswith("Missing argument"):
            see, text = f"{_advice_on_words(message, context)}; {see}", ""
            message = shorten(message, 100, placeholder=" …)")  # the shell makes many names of a pattern
        raise UsageError(f"{message}{text and f' ({text})'}; {see}") from None


class Grouped(TyperGroup):
    """Loads commands as they are asked for, and lists them under headings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = LoadedCommands()  # type: ignore[assignment]  # nothing is added

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for option, word in pairwise(["", *args]):
            if (word.startswith("--") and word.endswith("=")) or (option, word) == ("--out", ""):
                raise UsageError(f"{(word or option).rstrip('=')} has no value; give it one, or leave it out")
            if word.endswith(",") and " " not in word:
                raise UsageError(f"'{word}' ends with a comma; write a list without spaces, as in a,b, or in quotes")
        with _lines_of_typer(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _lines_of_typer(ctx):
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as typer calls it
        width = max(map(len, self.commands))
        for heading, commands in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:{width}}", f"{line}.") for name, (_, line) in commands.items()])


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
) -> None:
    console.listen(quiet, verbose)


def _tell(message: str) -> None:
    log.error(f"bandlens: {message}", exc_info=log.isEnabledFor(console.VERBOSE))


def _flush_output() -> None:
    """Write what is still in memory of standard output, while an error of that can be told."""
    try:
        if isinstance(sys.stdout, TextIOWrapper):  # it is None where it was closed before the start
            sys.stdout.flush()
    except OSError:
        # Python flushes once more at its end, and would end with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _words_of_fault(error: BaseException) -> str:
    """A line on an error that nobody foresaw; `open_store` has noted in it which databases were open.

    Libraries add notes of their own, which are no files.
    """
    notes = dict.fromkeys(getattr(error, "__notes__", []))
    databases = [note for note in notes if os.path.isfile(note)]  # noqa: PTH113 - a text may be too long for a path
    names = " or of ".join(databases or ["a file that it reads"])
    checks = " and ".join(f"`bandlens verify --db {quoted(database)}` checks the file" for database in databases)
    words = f"{type(error).__name__}: {words_of(error)}; bandlens -v … shows where it arose"
    return one_line(f"this is a fault of bandlens or of {names}: {words}{checks and f', and {checks}'}")


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
        database = os.environ.get("BANDLENS_DB")
        is_from_environment = database and database in str(error)
        _tell(f"{error}; $BANDLENS_DB names {database}" if is_from_environment else str(error))
        sys.exit(error.exit_code)
    except (OSError, MemoryError) as error:  # the machine raised it, and no better message is known
        words = one_line(str(error)) or "out of memory"
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            words = str(unwritable(error.filename or "standard output", error, ""))
        _tell(words)
        sys.exit(BandlensError.exit_code)
    except BaseException as error:  # a panic of Polars is no Exception
        if isinstance(error, (SystemExit, KeyboardInterrupt)) or signals.interrupted():
            raise
        _tell(_words_of_fault(error))
        sys.exit(FAULT_STATUS)
