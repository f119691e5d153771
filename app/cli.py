"""The command line. Each noun has its file in commands/; heavy libraries load when a command runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import BandlensError
from .commands import analyze, checkpoints, demo, doctor, export, images, probes, published, sql, studies

INTERRUPTED = 130

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


for name, group in {
    "checkpoints": checkpoints.app,
    "images": images.app,
    "probes": probes.app,
    "published": published.app,
}.items():
    app.add_typer(group, name=name)
for command in (doctor.doctor, export.export, studies.plan, studies.run, sql.sql, analyze.analyze, demo.demo):
    app.command()(command)


def main() -> None:
    """Run the command line. Errors are one line on stderr: exit 2 for wrong use, 1 for a failed job, 130 on Ctrl-C."""
    try:
        app()
    except BandlensError as error:
        print(f"bandlens: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("bandlens: interrupted; what was committed stays, run the same command to go on", file=sys.stderr)
        raise
