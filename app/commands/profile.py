"""`bandlens profile`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import api
from ..console import TableFormat, print_note, print_rows
from ..formats import Format
from .completion import complete_checkpoint, complete_engine

if TYPE_CHECKING:
    from ...engine.backends.layers import LayerDifference


def profile(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="An exported model.", autocompletion=complete_checkpoint)
    ],
    engine: Annotated[
        str, typer.Option("--engine", help="auto, or an engine that `doctor` lists.", autocompletion=complete_engine)
    ] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="One that the engine runs.")] = "fp32",
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="ENGINE[:PRECISION]",
            help="Instead of times: the first layer whose values differ from those of this engine.",
            show_default="layers are timed",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Images of a batch.", show_default="that of a study")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the CPU.", show_default="all")
    ] = None,
    models: Annotated[
        Path | None, typer.Option("--models", help="The folder of the models.", show_default="that of `export`")
    ] = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Time the layers of a model, or find the first that two engines compute differently.

    `of_roofline` is the share of a layer's time that the device needs for its bytes and operations, by a bandwidth and
    a rate measured now; it exceeds 1 where data stay in caches.

    On a CPU all threads share each layer here, and in a run they share a batch, which takes less time.

    Example: bandlens profile resnet50 --engine openvino --compare onnxruntime
    """
    if compare is not None:
        differences = api.models.compare_layers(name, compare, engine, precision, threads=threads, models=models)
        print_rows([asdict(difference) for difference in differences], table_format)
        print_note(_first_in_words(differences), table_format)
        return
    profiled = api.models.profile(name, engine, precision, batch=batch, threads=threads, models=models)
    print_rows(profiled.rows(), table_format)
    roofline = profiled.roofline
    print_note(
        f"{profiled.variant}: {1000 * profiled.seconds:.4g} ms for {profiled.batch} images, "
        f"{profiled.batch / profiled.seconds:,.0f} images/s in {len(profiled.layers)} layers; the device moves "
        f"{roofline.bandwidth / 1e9:.3g} GB/s and does {roofline.rate / 1e9:,.4g} GFLOP/s",
        table_format,
    )


def _first_in_words(differences: list[LayerDifference]) -> str:
    for number, layer in enumerate(differences):
        if layer.differs:
            words = (
                f"first layer that differs: {layer.layer} ({layer.operator}) by {layer.relative:.2g} of its largest "
                "value"
            )
            before = differences[number - 1] if number else None
            return f"{words}; {before.layer} before it by {before.relative:.2g}" if before else words
    return f"no layer differs by more than rounding explains; the logits differ by {differences[-1].relative:.2g}"
