"""`bandlens power`."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import api
from ..console import TableFormat, print_tables
from ..formats import Format


def power(
    images: Annotated[
        list[int] | None,
        typer.Option("--images", metavar="N", help="Images on which two models are compared; may be repeated."),
    ] = None,
    models: Annotated[
        list[int] | None,
        typer.Option("--models", metavar="M", help="Models that a correlation is over; may be repeated."),
    ] = None,
    difference: Annotated[
        float | None,
        typer.Option("--difference", help="How many images does a difference of two accuracies need, such as 0.03?"),
    ] = None,
    correlation: Annotated[
        float | None, typer.Option("--correlation", help="How many models does a correlation need?")
    ] = None,
    discordance: Annotated[
        float, typer.Option("--discordance", help="Share of images that one of two models alone has right.")
    ] = 0.1,
    tests: Annotated[int, typer.Option("--tests", help="Number of tests that Holm's method corrects for.")] = 1,
    table_format: TableFormat = Format.table,
) -> None:
    """Print the smallest difference and correlation that most studies find, and what a study needs for one.

    Differences are of two accuracies, as shares: `by_interval` where the 95 % interval leaves zero out, `by_test` where
    McNemar's test finds it. `kappa` is an error consistency that is told from 0. `bandlens plan` has the numbers of a
    study, and takes clusters and earlier runs into account.

    Example: bandlens power --difference 0.03 --discordance 0.25
    """
    tables = api.studies.power(
        images or (),
        models or (),
        difference=difference,
        correlation=correlation,
        discordance=discordance,
        tests=tests,
    )
    print_tables(tables, table_format)
