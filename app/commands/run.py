"""`bandlens run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import UnknownName, UsageError, plural, quoted
from .. import api
from ..console import TableFormat, duration, print_document, progress
from ..formats import Format
from .options import Database, EngineOption, StudyFile, resolve_study

if TYPE_CHECKING:
    from ..study.shards import Sharded


def run(
    study: StudyFile,
    db: Database = Path("results.duckdb"),
    engine: EngineOption = None,
    require_gate: Annotated[
        bool,
        typer.Option("--require-gate", help="Refuse, rather than warn of, a precision that `gate` has not passed."),
    ] = False,
    executor: Annotated[
        str, typer.Option("--executor", help="local: this process; ray: workers on this machine or a cluster.")
    ] = "local",
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            metavar="0,1",
            help="local: a process on each of these GPUs, by number or name of `nvidia-smi -L`; or cpu,cpu.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="ray: of a cluster, or auto; by default $RAY_ADDRESS, or else this machine."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option("--gpus-per-worker", min=0.01, help="ray: GPUs of a worker; 1 by default.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="ray: how many; by default as many as there is room for.")
    ] = None,
    task_timeout: Annotated[
        float | None,
        typer.Option(
            "--task-timeout",
            min=1,
            metavar="SECONDS",
            help="ray, devices: without progress, until another gets a task; default: 20 times what the slowest took.",
        ),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option("--shards", help="Folder or URI of results in Parquet; with ray or devices DB.shards by default."),
    ] = None,
    commit: Annotated[
        str,
        typer.Option(
            "--commit", help="now: results enter the database as they come; later: shards wait for `rebuild`."
        ),
    ] = "now",
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
    ray = {"--address": address, "--gpus-per-worker": gpus_per_worker, "--workers": workers}
    sharded = _sharded(db, executor, devices, ray, task_timeout, shards, commit)
    work = resolve_study(study, engine, db)
    summary = api.studies.run(
        work,
        db,
        require_gate=require_gate,
        sharded=sharded,
        snapshot=snapshot,
        raise_failures=False,  # the summary is printed first
        progress=progress,
    )
    if table_format != Format.table:
        print_document({"study": summary.label, **summary.numbers}, table_format)
    elif summary.ran or summary.failed:
        rate = summary.predictions / summary.seconds
        into, command = str(db), f"analyze{f' {quoted(study)}' if work.study.measures else ''} --db {quoted(db)}"
        if sharded and sharded.later:
            folder = quoted(sharded.folder)
            into, command = str(sharded.folder), f"rebuild {quoted(study)} --shards {folder} --db {quoted(db)}"
        print(
            f"{summary.label}: ran {summary.ran:,} of {plural(summary.cells, 'cell')}, "
            f"{plural(summary.predictions, 'prediction')} in {duration(summary.seconds)} ({rate:,.0f} a second), "
            f"into {into}"
            f"{'' if summary.failed else f'; next: bandlens {command}'}"
        )
    else:
        print(f"{summary.label}: nothing to run, all {summary.cells:,} cells are in {db}")
    summary.raise_failures()


def _sharded(
    db: Path,
    executor: str,
    devices: str | None,
    ray: Mapping[str, Any],
    task_timeout: float | None,
    shards: str | None,
    commit: str,
) -> Sharded | None:
    """Read from the options how a run leaves shards; None for a run that commits as it goes. `ray` are those of Ray."""
    if executor not in ("local", "ray"):
        raise UnknownName("executor", executor, ("local", "ray"))
    if commit not in ("now", "later"):
        raise UnknownName("time of --commit", commit, ("now", "later"))
    if executor == "ray":
        if devices is not None:
            raise UsageError("--devices is for the local executor; Ray puts a worker on each GPU that it has")
    else:
        ray_alone = ray if devices is not None else {**ray, "--task-timeout": task_timeout}
        if for_ray := [name for name, value in ray_alone.items() if value is not None]:
            raise UsageError(
                f"{for_ray[0]} is for --executor ray; the local executor is this process, or one for each of --devices"
            )
        if shards is None and devices is None:
            if commit == "later":
                raise UsageError("--commit later leaves shards; name a folder for them with --shards")
            return None
    from ...engine.distributed.cluster import RayOptions
    from ..study.shards import Sharded

    on_ray = RayOptions(ray["--address"], ray["--gpus-per-worker"] or 1, ray["--workers"])
    return Sharded(
        shards or f"{db}.shards",
        on_ray if executor == "ray" else None,
        tuple(name.strip() for name in devices.split(",")) if devices is not None else (),
        task_timeout,
        later=commit == "later",
    )
