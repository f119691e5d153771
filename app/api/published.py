"""Published figures: imported, related, joined with a study's own, and set beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...core.errors import UsageError, quoted
from .files import RESULTS, File, reading

if TYPE_CHECKING:
    import polars as pl

    from ...analysis.published.check import PublishedComparison


def published_values(db: File | None = None) -> pl.DataFrame:
    """The figures of all sources that ship, and of those that were imported into a results database."""
    from ...analysis.published.sources import atlas

    if db is None:
        return atlas()
    with reading(db) as store:
        return atlas(store)


@dataclass(frozen=True, slots=True)
class Publication:
    """The number of values and models that were imported of a source."""

    values: int
    models: int
    source: str | None = None
    """The title of the source; None for the study's own file."""
    terms: str = ""
    """The licence, and its meaning for those who import the source."""
    trials: int = 0
    """The number of people's single trials, which `bandlens analyze` sets models beside."""


def import_published(source: File, folder: File | None = None, db: File = RESULTS) -> Publication:
    """Read the study's results file, or another source's files, into a results database, for SQL and other commands.

    Args:
        source: the study's benchmark.csv, or the name of a source.
        folder: the folder of the source's files; a source that ships needs none.
        db: the results database; made if there is none.
    """
    from ...analysis.database.open import open_store
    from ...analysis.published.figures import read_benchmark
    from ...analysis.published.imports import read_import
    from ...analysis.published.relate import with_effective_values
    from ...analysis.published.sources import find_source, shipped_values, sources

    if folder is None and (str(source) not in sources() or Path(source).exists()):
        figures = read_benchmark(Path(source))
        with open_store(Path(db)) as store:
            store.write_published(figures)
        return Publication(len(figures), figures["model"].n_unique())
    described = find_source(str(source))
    if folder is None and not described.ships:
        raise UsageError(
            f"{source} does not ship; give the folder of its files: bandlens published import {source} DIR"
        )
    if folder is None:
        values, trials = shipped_values([described.name]), None
    else:
        values, trials = read_import(described, Path(folder))
    values = with_effective_values(values)
    with open_store(Path(db)) as store:
        store.write_source(described.name, values, trials)
    return Publication(
        len(values), values["model"].n_unique(), described.title, described.terms, 0 if trials is None else len(trials)
    )


def list_sources(db: File | None = None) -> list[dict[str, Any]]:
    """A row for each source of published figures: models, benchmarks, licence, commit, and whether it is here."""
    from ...analysis.published.sources import count_figures

    return list(count_figures(published_values(db)))


def values_of_model(model: str, db: File | None = None) -> pl.DataFrame:
    """All published figures of a model, by its name in any source, and how far apart those of one checkpoint are."""
    from ...analysis.published.names import values_of_model

    return values_of_model(published_values(db), model)


def compare_sources() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The study's accuracies less those of the same checkpoints in other sources: means, and a row for each model."""
    from ...analysis.published.names import agreement

    return agreement(published_values())


def relate_published(
    models: Literal["study", "timm", "critical-band"] = "timm", db: File | None = None
) -> tuple[pl.DataFrame, list[str]]:
    """Correlations of biases with accuracies within and between families of models, and sentences on their signs."""
    from ...analysis.published.relate import ground, relations, sentences

    values = published_values(db)
    rows = relations(ground(values, models))
    study = relations(ground(values, "study")) if models == "critical-band" else None
    return rows, sentences(rows, study)


def join_published(db: File = RESULTS, study: str = "*") -> pl.DataFrame:
    """Find the published model that each checkpoint of a results database is, by its weights, study or name."""
    from ...analysis.published.joined import joined
    from ...analysis.published.sources import atlas

    with reading(db) as store:
        return joined(store, study, atlas(store))


def place_model(model: str, db: File | None = None) -> tuple[pl.DataFrame, str | None]:
    """Place a model among all of timm's: its rank, beside the one that its ImageNet accuracy lets one expect.

    `model` is its name in any source, or a checkpoint of the database; the second value says by what it was joined.
    """
    from ...analysis.published.joined import published_name
    from ...analysis.published.relate import place

    values, joined_by = published_values(db), None
    if db is not None:
        with reading(db) as store:
            model, joined_by = published_name(store, "*", model, values)
    return place(values, model), joined_by


def effective_lines(by: Literal["baseline", "training"] = "baseline") -> list[dict[str, Any]]:
    """A row for each line that effective robustness is measured from, with its R2: by baseline, or by way of training.

    `over` is the ImageNet accuracy that it runs over, `up_to` and `above` where one of two lines holds.
    """
    from ...analysis.published.relate import BASELINES, baseline_lines, line_rows, training_lines

    values = published_values()
    if by == "training":
        lines = training_lines(values)
    else:
        lines = {baseline: baseline_lines(values, baseline) for baseline in BASELINES}
    return [{by: name, **row} for name, of_name in lines.items() for row in line_rows(of_name)]


def recompute_papers(paper: str | None = None, files: File | None = None) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """Recompute the numbers that authors printed, from what ships and from their own files.

    Args:
        paper: one paper's name; all if left out.
        files: a folder with a folder of each paper's name, which has its authors' files.

    Returns a row for each paper, with the count of its numbers (`figures`) and of the `equal` ones, both None where its
    files are not here, `files`, which says where they are had, and then `advice`, what to do about it; and a row for
    each number: paper, figure, printed, recomputed, equal, why (it differs). Raises UsageError where there is no such
    folder, or where the one paper's numbers cannot be recomputed.
    """
    import polars as pl

    from ...analysis.published.papers import FIGURES, find_papers, recompute

    folder = None if files is None else Path(files)
    if folder is not None and not folder.is_dir():
        raise UsageError(f"no folder {folder}; give one that has a folder of each paper's name, with its files")
    rows, parts = [], [pl.DataFrame(schema=FIGURES)]
    for described in find_papers(paper):
        figures = recompute(described, folder and folder / described.name)
        if figures is None and paper is not None:
            raise UsageError(f"{paper} has nothing to recompute: {described.advice(folder)}")
        parts += [] if figures is None else [figures]
        counts = (None, None) if figures is None else (len(figures), int(figures["equal"].sum()))
        facts = ("title", "printed", "repository", "commit", "licence", "recomputed_by")
        row = {fact: getattr(described, fact) for fact in facts} | {"files": described.where}
        row["advice"] = described.advice(folder) if figures is None else None
        rows.append({"paper": described.name, "figures": counts[0], "equal": counts[1], **row})
    return rows, pl.concat(parts)


def published_table(db: File | None = None) -> list[dict[str, Any]]:
    """Spearman's correlation of six biases with four kinds of generalization; 0 where p >= 0.05, as published.

    The figures are the shipped ones, or those that were imported into a results database.
    """
    from ...analysis.published.figures import correlation_table, imported_figures, shipped_figures

    if db is None:
        return correlation_table(shipped_figures())
    if not Path(db).exists():
        raise UsageError(f"no results database {db}; make one with `bandlens published import FILE --db {quoted(db)}`")
    with reading(db) as store:
        return correlation_table(imported_figures(store))


def check_published(db: File = RESULTS, study: str | None = None) -> tuple[str, PublishedComparison]:
    """The label of a study, and its clean top-1, spectral ratios, group means and biases beside the published ones."""
    from ...analysis.database.studies import study_label
    from ...analysis.published.check import check_published

    with reading(db) as store:
        label = study_label(store, study)
        return label, check_published(store, label)
