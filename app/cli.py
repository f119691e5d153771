"""The command line. Each noun has its file in commands/; heavy libraries load when a command runs."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from ..errors import BandlensError
from ..untrusted import one_line
from ..version import __version__
from .commands import (
    analyze,
    benchmarks,
    checkpoints,
    compare,
    consistency,
    correlate,
    demo,
    doctor,
    explore,
    export,
    gate,
    images,
    imports,
    plan,
    probes,
    published,
    rebuild,
    report,
    run,
    sql,
    study,
    verify,
)

app = typer.Typer(
    name="bandlens",
    help="Which image frequencies a classifier lives on, and whether that explains how well it generalizes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bandlens {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


GROUPS = {
    "checkpoints": checkpoints.app,
    "images": images.app,
    "benchmarks": benchmarks.app,
    "probes": probes.app,
    "published": published.app,
    "import": imports.app,
}
COMMANDS = (
    doctor.doctor,
    export.export,
    export.export_own,
    study.study,
    plan.plan,
    run.run,
    rebuild.rebuild,
    verify.verify,
    gate.gate,
    analyze.analyze,
    correlate.correlate,
    compare.compare,
    consistency.consistency,
    report.report,
    explore.explore,
    sql.sql,
    demo.demo,
)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line. Errors are one line on stderr: exit 2 for wrong use, 1 for a failed job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an encoding without a letter is no reason to end
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BandlensError.exit_code)
    except BandlensError as error:
        print(f"bandlens: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, MemoryError) as error:  # of the machine, where nothing better is known
        print(f"bandlens: {one_line(str(error)) or 'out of memory'}", file=sys.stderr)
        sys.exit(BandlensError.exit_code)
