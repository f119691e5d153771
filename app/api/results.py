"""Results databases: analyzed, compared, correlated, shown, asked and maintained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...core.errors import UnknownName, UsageError
from ...core.jobs import Progress, silent
from ...core.protocol import MODEL_VS_HUMAN
from .parameters import (
    RESULTS,
    Database,
    File,
    OnlyStudy,
    StudyOfProbes,
    existing,
    listed,
    path_of,
    reading,
)
from .studies import read_study

if TYPE_CHECKING:
    import polars as pl

    from ...analysis.comparison.runs import Comparison
    from ...analysis.correlations.effective_robustness import Expectation
    from ...analysis.correlations.table_inputs import StudyTable
    from ...analysis.database.integrity import Check
    from ...analysis.database.merge import Merged
    from ...analysis.database.store import Store
    from ...analysis.database.study_versions import Deletion
    from ...analysis.results import Results
    from ..report.build import Written
    from ..study.file import Study


def open(db: File) -> Results:  # noqa: A001 - as in `bandlens.open("results.duckdb")`
    """Open a results database for reading: Polars frames and Altair charts. Several programs may read one at a time."""
    from ...analysis.results import Results

    return Results(Path(db))


def analyze(
    db: Database = RESULTS,
    study: Annotated[Study | File, typer.Option("--study", metavar="NAME|FILE")] = "*",
    *,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Compute spectral, critical-band and shape biases, and group means, and keep them in the view `metric`.

    The table `error_consistency` gets which images every two models, and people, have right and wrong together.

    The view `condition_metric` gets shape bias, calibration and the like under every condition, and how they differ
    from those of the clean images.

    With a study file its own measures ([measures]) are computed as well, where their files, parameters or cells have
    changed; what is there of built-in ones stays.

    Args:
        study: name, or name@version; * is the newest version of each; or the file of one, whose own measures are
            computed too.

    Returns the rows of the view `metric`.
    """
    from ...analysis.database.open import open_store
    from ...analysis.metrics.compute import PEOPLE_COLUMNS, analyze_study, stored_values
    from ...analysis.metrics.custom import read_measures
    from ...analysis.metrics.predictions import SUBJECT_KEYS
    from ..study.file import is_study_file

    path = existing(db)
    name, measures = str(study), []
    if is_study_file(study):
        study = read_study(study)
        name, measures = study.name, read_measures(study.measures, study.folder)
    with open_store(path) as store:
        analyze_study(store, name, measures, progress, renew=not measures)
        return stored_values(store, name, conditions=False).select(*SUBJECT_KEYS, *PEOPLE_COLUMNS)


def measure(
    file: File | Callable[..., Any], db: File = RESULTS, study: str = "*", *, name: str | None = None, **settings: Any
) -> pl.DataFrame:
    """Compute a measure of one's own of what is stored, and keep it: its rows of the view `condition_metric`.

    Args:
        file: a Python file, or a function.
        study: name or name@version; it must stand for one study.
        name: of the measure and its function; by default that of the file or function.
        settings: values of the function's parameters; and perhaps `unit`, `function`, `files` and `version`.
    """
    from ...analysis.database.open import open_store
    from ...analysis.database.study_versions import study_label
    from ...analysis.metrics.compute import compute_own, stored_values
    from ...analysis.metrics.custom import read_measures

    path = existing(db)
    measure_name = name or str(getattr(file, "__name__", "") if callable(file) else Path(file).stem)
    where = {"function": file} if callable(file) else {"file": str(Path(file).absolute())}
    measures = read_measures({measure_name: {**where, **settings}}, Path())
    with open_store(path) as store:
        label = study_label(store, None if study == "*" else study)
        compute_own(store, label, measures)
        return stored_values(store, label, conditions=True).filter(metric=measure_name)


def list_measures(study: Study | File | None = None) -> list[dict[str, Any]]:
    """List the measures: name, title, unit, and whether `correlate` takes it.

    Args:
        study: a study whose own measures are listed too.
    """
    from ...analysis.metrics.custom import read_measures
    from ...analysis.metrics.registry import MEASURES

    measures = list(MEASURES.values())
    if study is not None:
        study = read_study(study)
        measures += [measure.grid_measure for measure in read_measures(study.measures, study.folder)]
    return [
        {
            "name": measure.name,
            "title": measure.display.title,
            "unit": measure.display.unit,
            "bias": measure.is_bias,
        }
        for measure in measures
    ]


def read_pair(pair: str | Sequence[str], name: str = "") -> tuple[str, str]:
    """One of A and one of B, as X,Y or as two names; UsageError where there are not two. `name` is the parameter's."""
    names = pair.split(",") if isinstance(pair, str) else pair
    if len(names) != 2 or not all(names):
        raise UsageError(f"{name and f'{name} is '}{pair}: give one of A and one of B, as X,Y without a space")
    return names[0], names[1]


Pair = Annotated[tuple[str, str] | None, typer.Option(metavar="X,Y", parser=read_pair)]


def compare(
    a: str,
    b: Annotated[str | None, typer.Argument()] = None,
    db: Database = RESULTS,
    *,
    study: str | None = None,
    checkpoints: Pair = None,
    image_sets: Pair = None,
    precisions: Pair = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare two runs image by image: accuracies and metrics that changed, with intervals.

    Two versions of a study, two studies, two databases; or two checkpoints, image sets or precisions of a study.
    McNemar's test for each cell, corrected over all of them. Differences are B less A; see docs/guide/compare.md.

    Args:
        a: a study, as name or name@version; or a database.
        b: what to compare it with; left out, A, for two of its own.
        study: which study of a database given as A or B; by default the only one.
        checkpoints: compare checkpoint X of A with Y of B; by default those of one name, or the only one of each.
        image_sets: compare image set X of A with Y of B.
        precisions: compare the newest version of A that ran in precision X with that of B in Y.

    Raises UsageError where there is nothing to compare.
    """
    from ...analysis.comparison.cell_pairs import Run, two_of
    from ...analysis.comparison.runs import compare_runs
    from ...analysis.database.open import names_database, open_store
    from ...analysis.database.study_versions import study_label, version_in

    columns = {"checkpoint": checkpoints, "image_set": image_sets, "precision": precisions}
    pairs = {name: read_pair(pair, f"{name}s") for name, pair in columns.items() if pair is not None}
    if len(pairs) > 1:
        raise UsageError("compare two checkpoints, two image sets or two precisions; not several at once")
    names = (a, a if b is None else b)
    paths = [Path(name if names_database(name) else db) for name in names]
    with ExitStack() as stack:
        stores = {path: stack.enter_context(open_store(path, read_only=True)) for path in dict.fromkeys(paths)}
        runs = []
        for name, path, precision in zip(names, paths, pairs.get("precision", (None, None)), strict=True):
            store, version = stores[path], study if names_database(name) else name
            label = version_in(store, version, precision) if precision else study_label(store, version)
            runs.append(Run(store, label, value=precision))
        run_a, run_b = runs
        query = "SELECT DISTINCT checkpoint FROM study_detail_of(?)"
        names_a, names_b = (run.store.frame(query, [run.label])["checkpoint"].to_list() for run in runs)
        if not pairs and len(names_a) == len(names_b) == 1 and names_a != names_b:
            pairs = {"checkpoint": (names_a[0], names_b[0])}  # as of two looks
        for column in pairs.keys() - {"precision"}:
            run_a, run_b = two_of(run_a, run_b, column, *pairs[column])
        with progress("comparing", None, "cells") as advance:
            return compare_runs(run_a, run_b, advance)


def sample(out: Annotated[File, typer.Option(metavar="FILE")] = "sample.duckdb") -> Path:
    """Write real results into a new database, to look at before anything is run: networks with public weights.

    They saw photographs of ImageNet's classes under the published grid and under all sets of seven octaves;
    docs/findings.md says which networks, and what the results show.

    Args:
        out: the new database.

    Returns its path; raises UsageError where it is there already.
    """
    from ...analysis.database.sample import write_sample

    write_sample(Path(out))
    return Path(out)


@dataclass(frozen=True, slots=True)
class Correlated:
    """Correlations of biases with groups of benchmarks."""

    rows: pl.DataFrame
    """A row for each bias, group and subset: see docs/guide/compare.md."""
    partial_on: str | None
    """The accuracy that partial correlations hold fixed."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """A row for each line that effective robustness is measured from."""
    definition: str = ""
    """The definition of effective robustness by the chosen baseline."""


def correlate(
    db: File | None = None,
    study: OnlyStudy = None,
    *,
    biases: Annotated[Sequence[str], typer.Option("--bias")] = (),
    method: Literal["spearman", "pearson"] = "spearman",
    target: Literal["raw", "effective"] = "raw",
    baseline: Literal["testbed", "standard", "timm"] | None = None,
) -> Correlated:
    """Correlate every bias with every kind of generalization: with intervals, permutation tests and correction.

    Without a database, the published figures of the study's 48 models. docs/guide/compare.md explains every number.

    Args:
        db: take metrics and accuracies from this results database; by default the published ones, or those of
            results.duckdb where a study is named.
        biases: a bias to correlate, again for more; by default all.
        method: which coefficient.
        target: accuracies as they are, or effective robustness.
        baseline: which definition of effective robustness, by default standard; only testbed is that of Taori et al.
            2020, for benchmarks over whose classes there is an ImageNet accuracy; the lines of the others run over all
            1,000 classes.
    """
    biases = listed(biases)
    if baseline is not None and target == "raw":
        raise UsageError("--baseline is for --target effective; give both, or neither")
    baseline = baseline or "standard"
    if study is not None and db is None:
        db = RESULTS
    import polars as pl

    from ...analysis.correlations.table import correlate_study
    from ...analysis.correlations.table_inputs import check_biases, study_table
    from ...analysis.database.study_versions import study_label
    from ...analysis.published.robustness import BASELINES, list_lines
    from ...analysis.published.study_figures import published_table

    with nullcontext() if db is None else reading(db) as store:
        label = study_label(store, study) if store else ""
        if store:
            check_biases(store, label, biases)
        # Errors are those of the accuracies.
        table = study_table(store, label, with_errors=target == "raw") if store else published_table()
        table, lines = _effective_table(store, label, table, baseline) if target == "effective" else (table, {})
    for name in biases:
        if name not in table.biases:
            raise UnknownName("bias", name, table.biases)
    rows = correlate_study(table, method, biases=list(dict.fromkeys(biases)))
    if target == "raw":
        return Correlated(rows, table.control)
    definition = f"baseline {baseline}: {BASELINES[baseline]}"
    return Correlated(rows.with_columns(baseline=pl.lit(baseline)), table.control, list_lines(lines), definition)


def _effective_table(
    store: Store | None, label: str, table: StudyTable, baseline: str
) -> tuple[StudyTable, dict[str, Expectation]]:
    """Effective robustness in place of accuracies, with ImageNet's held fixed, and the lines it is measured from."""
    from ...analysis.correlations.table_inputs import ID_BENCHMARK, StudyTable
    from ...analysis.published.robustness import add_accuracies, add_effective, fit_baseline, study_models
    from ...analysis.published.sources import atlas

    values = atlas()
    lines = fit_baseline(values, baseline)
    frame = add_accuracies(store, label, table.frame) if store else study_models(values)
    frame, targets = add_effective(frame, lines)
    target_lines = {name: line for name, line in lines.items() if f"effective_{name}" in targets}
    return StudyTable(frame, table.biases, targets, ID_BENCHMARK), target_lines


def consistency(
    images: str,
    db: Database = RESULTS,
    *,
    pairs: Annotated[bool, typer.Option("--pairs")] = False,
    convention: Literal["model-vs-human", "all"] = MODEL_VS_HUMAN,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Print how consistent the errors of models and humans are: kappa of right and wrong, with 95 % intervals.

    Models are those with a clean run on the images; humans are there after `bandlens published import humans`. With
    humans, the means of kappa over them, with intervals over images, and the lowest and highest kappa of a pair;
    without, or with --pairs, every two subjects, and the most that their accuracies allow.

    Args:
        images: a stimulus set, benchmark or image set of the database.
        pairs: every two subjects, even where there are humans.
        convention: which conditions of a stimulus set count: those of model-vs-human and brain-score, without controls
            and conditions in which people are right in less than 0.2 of the trials, and all 1,280 cue conflicts; or all
            conditions, and of cue conflicts those whose cues differ.
    """
    from ...analysis.metrics.families.error_consistency import consistencies, mean_consistencies

    with reading(db) as store:
        means = [] if pairs else mean_consistencies(store, images, convention, progress)
        return means or consistencies(store, images, convention, progress).to_dicts()


def report(
    db: Database = RESULTS,
    out: File = Path("report.html"),
    study: str | None = None,
    *,
    against: str | None = None,
    published: bool = False,
    figures: Annotated[Sequence[str], typer.Option(metavar="NAME,…|all")] = (),
    folder: File | None = None,
    progress: Progress = silent,
) -> Written:
    """Write one HTML file to look at and send: curves, critical bands, correlations, conditions, provenance.

    It holds everything that it shows and asks for nothing from the network. Metrics are those of `bandlens analyze`.

    Args:
        db: the results database; it is only read.
        out: the report, an HTML file.
        study: name, or name@version; by default the one that ran last.
        against: show what changed: another results database, FILE or FILE:name, or another study or name@version of
            this one.
        published: show your models among published ones, too.
        figures: charts to write as SVG, PDF and PNG files, 3.5 or 7 in wide.
        folder: where --figures go, with a list of them; figures by default.
    """
    from ..report.build import write_report

    names = [name for words in listed(figures) for name in words.split(",")]
    if folder is not None and not names:
        raise UsageError(f"{folder} is for figures; name some, or all: --figures all (figures= in Python)")
    with progress("writing", None, "charts") as advance:
        return write_report(Path(db), Path(out), study, against, published, names, Path(folder or "figures"), advance)


def explore(
    db: Database = RESULTS,
    images: Annotated[Sequence[File], typer.Option(metavar="FOLDER")] = (),
    *,
    study: StudyOfProbes = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 0,
    tell: Callable[[str, int], object] = lambda _address, _sets: None,
) -> None:
    """Look at a results database in a browser: curves, correlations, and the photographs behind them.

    The page is served until Ctrl-C, on this machine alone, for whoever has the address with its token. Images are shown
    where their sets are found, perturbed again by the same code and seed.

    Args:
        db: the results database, or a snapshot of one that a run writes to.
        images: where image sets lie, again for more; by default beside the database.
        port: 0 is any that is free.
        tell: called with the address, token included, and the number of image sets found.
    """
    from ..explore.server import serve
    from ..study.set_lookup import SEARCH_DEPTH, find_sets

    places = [Path(folder) for folder in listed(images)] or [Path(db).resolve().parent]
    for folder in places:
        if not folder.is_dir():
            raise UsageError(f"no folder {folder}; name with --images where image sets lie")
    sets = find_sets(places)
    if images and not sets:
        raise UsageError(
            f"no image set in {', '.join(map(str, places))}, nor {SEARCH_DEPTH} folders down; name with --images the "
            "folder that `bandlens images pack --out` wrote to, or the one above"
        )

    serve(Path(db), sets, path_of(study), port, tell)


def verify(db: Database = RESULTS) -> list[Check]:
    """Check that a database agrees with itself: cells, parts, predictions, sums, labels and images.

    Whether a machine computes what is stored, a run into another database says, and `bandlens compare` of the two.

    Returns the rules, each with the problems that were found.
    """
    from ...analysis.database.integrity import check_database

    with reading(db) as store:
        return check_database(store)


def list_studies(db: Database = RESULTS) -> pl.DataFrame:
    """List every version of every study: its cells, how many are complete, and how many no other version has."""
    from ...analysis.database.study_versions import list_studies

    with reading(db) as store:
        return list_studies(store)


def stored_study(name: str, db: Database = RESULTS) -> str:
    """Print the file that a version was run from last; of a name, that of the newest version.

    Args:
        name: a study, or one version of it: name@version.
    """
    from ...analysis.database.study_versions import study_label, study_versions

    with reading(db) as store:
        (study,) = study_versions(store, study_label(store, name))["study_id"]
        return str(store.frame("SELECT toml FROM study WHERE id = ?", [study]).item())


def rename_study(name: str, to: Annotated[str, typer.Argument(metavar="NEW")], db: Database = RESULTS) -> int:
    """Give a study another name. The next run of a file with the old name begins a new study, of the same cells.

    Args:
        name: a study.
        to: what all of its versions shall be called.

    Returns the number of its versions.
    """
    from ...analysis.database.open import open_store
    from ...analysis.database.study_versions import rename_study
    from ..study.file import is_study_name

    if not is_study_name(to):
        raise UsageError(f"a study's name is a line of text without @, which asks for a version, not {to!r}")
    with open_store(existing(db)) as store:
        return rename_study(store, name, to)


def delete_study(
    name: str, db: File = RESULTS, *, confirm: Callable[[Deletion], bool] = lambda _: True
) -> tuple[Deletion, int] | None:
    """Delete a version of a study, or all versions of a name, with the predictions that nothing else uses.

    Args:
        name: a study, or one version of it: name@version.
        confirm: asked before anything is deleted, with what would go and what would stay.

    Returns what went, and the bytes of the file that are free now; None where `confirm` said no.
    """
    from ...analysis.database.open import open_store
    from ...analysis.database.study_versions import delete_study, free_bytes

    with open_store(existing(db)) as store:
        deletion = delete_study(store, name, dry_run=True)
        if not confirm(deletion):
            return None
        delete_study(store, name)
        return deletion, free_bytes(store)


def merge(
    databases: Annotated[Sequence[File], typer.Argument(metavar="DB...")],
    out: Annotated[File, typer.Option(metavar="FILE")],
    *,
    prefer: Annotated[File | None, typer.Option(metavar="DB")] = None,
    raise_contradictions: bool = True,
    progress: Progress = silent,
) -> Merged:
    """Write what several databases hold into a new one: each cell once, studies under their names.

    A single database is copied without the room of what was deleted, and migrated where it is of an earlier schema
    version. Where two have other predictions of a cell, or
    other labels, paths, names or figures of one thing, nothing is written unless one is preferred.

    Args:
        databases: results databases, which are only read.
        out: the new database.
        prefer: the one that is right where they contradict.
        raise_contradictions: raise StoreError where nothing decides such a contradiction; else the result lists them.
            Nothing is written in both cases.

    Raises UsageError where `out` is there already, or two studies of one name and version are not the same; StoreError
    where a database cannot be opened or disagrees with itself, which the result would show, or the disk is full.
    """
    from ...analysis.database.merge import merge

    merged = merge([Path(db) for db in listed(databases)], Path(out), path_of(prefer), progress)
    return merged.raise_contradictions() if raise_contradictions else merged
