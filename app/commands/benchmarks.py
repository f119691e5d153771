"""`bandlens benchmarks`: the benchmarks of the study, checked and packed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...core.protocol import BENCHMARKS, SIZE
from ...probes.images.options import How
from .. import api
from ..console import TableFormat, log, print_rows, progress
from ..formats import Format
from .completion import complete_benchmark
from .images import (
    Clusters,
    Fast,
    Interpolation,
    Name,
    Out,
    Resize,
    Size,
    SkipBroken,
    Stream,
    Workers,
    print_sets,
    read_crop,
)

app = typer.Typer(
    name="benchmarks",
    help="The generalization benchmarks of the study: list them, check them, pack them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command("list")
def list_(table_format: TableFormat = Format.table) -> None:
    """List the benchmarks that `pack` knows.

    Example: bandlens benchmarks list
    """
    print_rows(api.images.list_benchmarks(), table_format)


@app.command()
def pack(
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="As `list` shows it.", show_default=False, autocompletion=complete_benchmark
        ),
    ],
    source: Annotated[Path, typer.Argument(metavar="DIR|TAR", help="The benchmark's folder, or an archive of it.")],
    out: Out,
    name: Name = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option("--ground-truth", metavar="FILE", help="Labels of ImageNet images without folders."),
    ] = None,
    real: Annotated[Path | None, typer.Option("--real", metavar="FILE", help="ReaL's real.json.")] = None,
    corruption: Annotated[
        list[str] | None, typer.Option("--corruption", metavar="NAME", help="Only this one; repeatable.")
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option("--severity", metavar="K", help="Only this one, 1 to 5; repeatable.")
    ] = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", metavar="K", help="The first K images of each class.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="N images, spread over the classes.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="What is there, though something is missing.")] = False,
    clusters: Clusters = "none",
    size: Size = SIZE,
    resize: Resize = "256",
    interpolation: Interpolation = "bilinear",
    fast: Fast = False,
    stream: Stream = False,
    skip_broken: SkipBroken = False,
    workers: Workers = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Check that a folder holds a benchmark, and pack it: whole, or the part that is asked for.

    Example: bandlens benchmarks pack imagenet imagenet/val --out sets/imagenet

    Example: bandlens benchmarks pack imagenet-c imagenet-c --out sets/imagenet-c --corruption fog
    """
    from ...probes.benchmarks.check import Subset
    from ...probes.benchmarks.truth import Labels

    fixed = benchmark in BENCHMARKS and BENCHMARKS[benchmark].fixed
    options: dict[str, Any] = {
        "crop": read_crop(size, resize, interpolation, fast, fixed),
        "labels": Labels(ground_truth, real, clusters),
        "subset": Subset(per_class, limit, partial, tuple(corruption or ()), tuple(severity or ())),
        "how": How(skip_broken, stream, workers, progress, log.info),
    }
    print_sets(lambda: api.images.pack_benchmark(benchmark, source, out, name=name, **options), table_format)
