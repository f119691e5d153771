"""`bandlens run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import plural, quoted
from .. import api
from ..console import TableFormat, duration, print_document, progress
from ..formats import Format
from .options import Database, EngineOption, StudyFile, resolve_study


def run(
    study: StudyFile,
    db: Database = Path("results.duckdb"),
    engine: EngineOption = None,
    require_gate: Annotated[
        bool,
        typer.Option("--require-gate", help="Refuse, rather than warn of, a precision that `gate` has not passed."),
    ] = False,
    executor: Annotated[str, typer.Option("--executor", help="local; or ray: workers on a Ray cluster.")] = "local",
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            metavar="0,1",
            help="local: a process on each of these GPUs, by number or name of `nvidia-smi -L`; or cpu,cpu.",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="ray: HOST:PORT of the cluster, or auto; by default $RAY_ADDRESS.")
    ] = None,
    snapshot: Annotated[
        Path | None,
        typer.Option(
            "--snapshot", metavar="FILE", help="A copy for readers, renewed while this runs; name it with --db."
        ),
    ] = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Run what the database lacks of a study. Interrupt it at will: the next run goes on where it stopped.

    `bandlens init` writes a study file for the models and images that are here.

    Example: bandlens run study.toml --db results.duckdb
    """
    work = resolve_study(study, engine, db)
    summary = api.studies.run(
        work,
        db,
        require_gate=require_gate,
        executor=executor,
        devices=[name.strip() for name in devices.split(",")] if devices is not None else (),
        address=address,
        snapshot=snapshot,
        raise_failures=False,  # the summary is printed first
        progress=progress,
    )
    if table_format != Format.table:
        print_document({"study": summary.label, **summary.numbers}, table_format)
    elif summary.ran or summary.failed:
        rate = summary.predictions / summary.seconds
        command = f"analyze{f' {quoted(study)}' if work.study.measures else ''} --db {quoted(db)}"
        print(
            f"{summary.label}: ran {summary.ran:,} of {plural(summary.cells, 'cell')}, "
            f"{plural(summary.predictions, 'prediction')} in {duration(summary.seconds)} ({rate:,.0f} a second), "
            f"into {db}"
            f"{'' if summary.failed else f'; next: bandlens {command}'}"
        )
    else:
        print(f"{summary.label}: nothing to run, all {summary.cells:,} cells are in {db}")
    summary.raise_failures()
