"""Studies: planned, gated, run, imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import UnknownName, UsageError, did_you_mean
from ...core.jobs import Progress, silent
from ...core.log import log
from ...core.untrusted import one_line
from .parameters import RESULTS, Database, EngineOfStudy, File, existing, listed, path_of

if TYPE_CHECKING:
    from ...analysis.comparison.gates import Gated
    from ..study.external_predictions import Imported
    from ..study.file import Study
    from ..study.plan import Plan
    from ..study.resolve import Work
    from ..study.run_monitor import RunProgress
    from ..study.summary import Summary
    from ..study.workers import Workers


def shipped_studies() -> dict[str, str]:
    """The texts of the study files that come along, by their names."""
    from importlib.resources import files

    folder = files("bandlens.app").joinpath("studies")
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in folder.iterdir()}


def write_study(file: Annotated[File, typer.Argument()] = Path("study.toml"), *, study: str | None = None) -> Study:
    """Write a study file for your models and images, asking nothing; or one that comes along, to be changed.

    It names the exported models, those in the folder `models` beside FILE or else in $BANDLENS_HOME/models, and the
    image sets in FILE's folder and four levels below, whether or not they fit each other: `plan` says so. With nothing
    there it has names to replace. A file that is there is kept.

    Those that come along are grid: the 52 published conditions on ImageNet; paper: the grid, an attack, and every other
    benchmark clean; human-probes: the stimuli of experiments with people; fourier-map: errors under single waves;
    shape-under-filters: shape bias against cutoff; reliance: accuracy without shape, texture, or colour; and octaves:
    all sets of seven octaves.

    Args:
        file: the new study file.
        study: one that comes along, such as grid, instead of one for what is on the disk.

    Returns the study. Raises UsageError where there is a file already, or none can be written.
    """
    from ...export.model_files import model_names, models_folder
    from ...probes.images.storage import ABOUT
    from ..study.file import Study
    from ..study.study_template import write_file, write_study

    path = Path(file)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it: {path / 'study.toml'}")
    if study is None:
        if str(file) in shipped_studies():
            raise UsageError(f"{file} comes along: bandlens init {file}.toml --study {file}; or name another file")
        write_study(path)
    elif study in shipped_studies():
        write_file(path, shipped_studies()[study])
    else:
        raise UnknownName("study", study, shipped_studies())
    new_study = Study.read(path)
    models = new_study.folder / new_study.models if new_study.models else models_folder()
    lacking = [] if model_names(models) else [f"no models in {models}"]
    lacking += [f"no image set {name}" for name in new_study.images if not any(path.parent.glob(f"{name}/{ABOUT}"))]
    if lacking:
        log.warning(f"bandlens: warning: {path} cannot run yet: {', '.join(lacking)}; name yours in it")
    return new_study


def read_study(study: Study | File, engine: str | None = None) -> Study:
    """The study of a file, or the study itself; with another engine where one is given."""
    from ..study.file import Study

    study = study if isinstance(study, Study) else Study.read(study)
    return replace(study, engine=engine or study.engine)


def _work(study: Study | Work | File, engine: str | None, db: File) -> Work:
    """The models, image sets, conditions and cells of a study on this machine; neither weights nor pixels are read.

    The log says which engine and batch were chosen, and why. A study that names no engine keeps to that of `db`.
    """
    from ..study.resolve import Work, resolve

    if isinstance(study, Work):
        return study
    work = resolve(read_study(study, engine), Path(db))
    for line in work.choices:
        log.info(line)
    return work


def plan(study: Study | Work | File, db: Database = RESULTS, *, engine: EngineOfStudy = None) -> Plan:
    """Show what a run would do: which cells are done, missing or stale, the time, and which metrics there will be.

    Probes and measures of one's own are programs that load for this; the log names their files before they do.

    Args:
        study: the study: a TOML file.
    """
    from ..study.plan import plan_study
    from ..study.resolve import Work

    if not isinstance(study, Work):
        study = read_study(study, engine)
        if study.programs:
            log.info(one_line(f"the study runs programs with your rights: {', '.join(study.programs)}"))
    return plan_study(_work(study, engine, db), Path(db))


USUAL_IMAGES, USUAL_MODELS = (300, 1_000, 5_000, 50_000), (12, 24, 48, 100)
"""Numbers of images and models that `power` answers for where it is asked for nothing in particular."""


def power(
    images: Annotated[Sequence[int], typer.Option(metavar="N")] = (),
    models: Annotated[Sequence[int], typer.Option(metavar="M")] = (),
    *,
    difference: float | None = None,
    correlation: float | None = None,
    discordance: float = 0.1,
    tests: int = 1,
) -> dict[str, list[dict[str, Any]]]:
    """Print the smallest difference and correlation that 80 % of studies find, and what a study needs for one.

    Tests are at 5 %. Differences are of two accuracies, as shares: `by_interval` where the 95 % interval leaves zero
    out, `by_test` where McNemar's test finds it. `kappa` is an error consistency that is told from 0, `pearson` and
    `spearman` are the two coefficients, and `enough_for` says which difference or correlation asks for the number of
    the row. `bandlens plan` has the differences of accuracies on the sets of a study, and takes clusters into account.

    Args:
        images: images on which two models are compared; may be repeated.
        models: models that a correlation is over, at least 9; may be repeated.
        difference: how many images does a difference of two accuracies need, such as 0.03?
        correlation: how many models does a correlation need?
        discordance: share of images that one of two models alone has right; at least the difference.
        tests: number of tests that Holm's method corrects for.

    Returns the tables `images` and `models`, without those that are empty; a difference is None where not even one of 1
    is found.

    Raises UsageError for a number that is out of its range.
    """
    from ...analysis.statistics import EXACT_MODELS
    from ...analysis.statistics import power as formulas

    images, models = listed(images), listed(models)
    for name, values, minimum, maximum in (
        ("images", images, 1, inf),
        ("models", models, EXACT_MODELS + 1, inf),
        ("tests", [tests], 1, inf),
        ("discordance", [discordance], 0.0001, 1),
        ("difference", [difference] if difference is not None else [], 0.0001, 1),
        ("correlation", [abs(correlation)] if correlation is not None else [], 0.0001, 0.9999),
    ):
        for value in values:
            if not minimum <= value <= maximum:
                reach = f"of {minimum:g} or more" if maximum == inf else f"from {minimum:g} to {maximum:g}"
                raise UsageError(f"{name} {value:g}: give a number {reach}")
    if difference is not None and difference > discordance:
        raise UsageError(
            f"difference {difference:g}: none exceeds the discordance, {discordance:g}; give a discordance of "
            f"{difference:g} or more"
        )
    if not images and not models and difference is None and correlation is None:
        images, models = USUAL_IMAGES, USUAL_MODELS
    counts: list[tuple[int, str | None]] = [(count, None) for count in images]
    sizes: list[tuple[int, str | None]] = [(count, None) for count in models]
    if difference is not None:
        counts += [
            (formulas.images_needed(difference, discordance, tests), f"{difference:g} by interval"),
            (formulas.images_needed_by_test(difference, discordance, tests), f"{difference:g} by test"),
        ]
    if correlation is not None:
        sizes += [
            (formulas.models_needed(correlation, tests, method), f"{correlation:g} by {method}")
            for method in formulas.CORRELATION_SPREADS
        ]
    tables: dict[str, list[dict[str, Any]]] = {
        "images": [
            {
                "images": count,
                "by_interval": _possible(formulas.smallest_difference(count, discordance, tests)),
                "by_test": _possible(formulas.smallest_tested_difference(count, discordance, tests)),
                "kappa": formulas.smallest_kappa(count, tests),
                "enough_for": purpose,
            }
            for count, purpose in counts
        ],
        "models": [
            {
                "models": count,
                "pearson": formulas.smallest_correlation(count, tests, "pearson"),
                "spearman": formulas.smallest_correlation(count, tests, "spearman"),
                "enough_for": purpose,
            }
            for count, purpose in sizes
        ],
    }
    return {name: rows for name, rows in tables.items() if rows}


def _possible(difference: float) -> float | None:
    """A difference of two accuracies, or None where none is as large."""
    return difference if difference <= 1 else None


def run(
    study: Study | Work | File,
    db: Database = RESULTS,
    *,
    engine: EngineOfStudy = None,
    require_gate: Annotated[bool, typer.Option("--require-gate")] = False,
    executor: str = "local",
    devices: Annotated[Sequence[str | int], typer.Option(metavar="0,1")] = (),
    address: str | None = None,
    snapshot: Annotated[File | None, typer.Option(metavar="FILE")] = None,
    analyze: Annotated[bool, typer.Option("--analyze/--no-analyze")] = True,
    raise_failures: bool = True,
    progress: Progress = silent,
) -> Summary:
    """Run what the database lacks of a study. Interrupt it at will: the next run goes on where it stopped.

    `bandlens init` writes a study file for the models and images that are here. At the end the metrics of what is
    complete are computed, where they are not there yet, the study's own measures too; `bandlens analyze` prints them.

    Args:
        study: the study: a TOML file.
        require_gate: refuse, rather than warn of, a precision that `gate` has not passed.
        executor: local; or ray: workers on a Ray cluster.
        devices: local: a process on each of these GPUs, by number or name of `nvidia-smi -L`; or cpu,cpu.
        address: ray: HOST:PORT of the cluster, or auto; by default $RAY_ADDRESS.
        snapshot: a copy for readers, renewed while this runs; name it with --db.
        analyze: compute metrics and end with the verdict, a sentence on what the models live on.
        raise_failures: raise BandlensError where cells failed, after all others were stored; else the summary has them.
    """
    from ..study.runner import run_study

    work = _work(study, engine, db)
    summary = run_study(
        work,
        Path(db),
        require_gate=require_gate,
        workers=_workers(executor, devices, address),
        snapshot=path_of(snapshot),
        progress=progress,
        analyze=analyze,
    )
    return summary.raise_failures() if raise_failures else summary


def _workers(executor: str, devices: Sequence[str | int], address: str | None) -> Workers | None:
    """The workers of a run; None for one in this process."""
    from ..study.workers import Workers

    if executor not in ("local", "ray"):
        raise UnknownName("executor", executor, ("local", "ray"))
    if executor == "ray" and devices:
        raise UsageError("--devices is for the local executor; Ray puts a worker on each GPU that it has")
    if executor == "local" and address is not None:
        raise UsageError("--address is for --executor ray; the local executor is this process, or --devices")
    names = tuple(name.strip() for words in listed(devices) for name in str(words).split(","))
    return Workers(names, address) if names or executor == "ray" else None


STORED = """
SELECT (SELECT coalesce(sum(count), 0) FROM part)::DOUBLE,
       (SELECT coalesce(sum(image_set.count), 0) FROM cell JOIN image_set ON image_set.id = cell.image_set)::DOUBLE
"""
"""Predictions that a database holds, and those that all of its cells have."""


def run_progress(db: Database = RESULTS) -> list[RunProgress]:
    """Say how far the run is that holds a results database, and how long it will take.

    Returns the states that the runs, usually one, last wrote. The database is not opened, unless they were killed: then
    `done` and `total` are the predictions that it holds, and that all of its cells have.
    """
    from ..study.run_monitor import read_progress

    states = read_progress(existing(db))
    if states and all(state.gone for state in states):
        from ...analysis.database.open import open_store

        with open_store(Path(db), read_only=True) as store:
            [(stored, total)] = store.execute(STORED)
        if total:
            return [replace(state, done=stored, total=total, unit="predictions") for state in states]
    return states


def gate(
    study: Study | File,
    against: str = "",
    db: Database = RESULTS,
    *,
    margin: float | None = None,
    flips: float | None = None,
    slices: Annotated[Sequence[str], typer.Option(metavar="KIND")] = (),
    progress: Progress = silent,
) -> Gated:
    """Find out whether a release answers no worse than the one before it.

    Each condition passes, fails or is undecided. Predictions that lack are run first; verdicts are kept in the view
    `release_gate`. The limits are those of the study's table [gate], unless others are named.

    Args:
        study: the study: a TOML file, or one that was run, as name or name@version.
        against: the release before: name or name@version in the database, or another database, FILE or FILE:name.
        margin: the loss that a release has to stay below; by default the study's, or 0.01.
        flips: the largest share of negative flips; by default the study's, or any.
        slices: judge by `class`, or `attribute`, too; by default as the study says.

    Raises UsageError where there is nothing to compare, or a limit makes no sense.
    """
    from ...analysis.comparison.gates import name_limit
    from ..study.file import check_limit, is_study_file
    from ..study.gate import gate_study_release

    if not against:
        name, is_file = getattr(study, "name", study), is_study_file(study)
        raise UsageError(
            f"{name} is judged by the release before it: --against NAME{'' if is_file else ', which --db DB holds'}, "
            "or another database; a precision by another: bandlens gate precision STUDY.toml --candidate "
            f"ENGINE:PRECISION{did_you_mean(str(name), [] if is_file else ['precision'])}"
        )
    thresholds = {"margin": margin, "negative_flips": flips, "slices": listed(slices) or None}
    limits = {key: value for key, value in thresholds.items() if value is not None}
    for key, value in limits.items():
        check_limit(name_limit(key), value, key)
    run = read_study(study) if is_study_file(study) else str(study)
    return gate_study_release(run, against, Path(db), limits, progress)


def gate_precision(
    study: Study | File,
    candidate: str | None = None,
    reference: str = "fp32",
    db: Database = RESULTS,
    *,
    checkpoints: Annotated[Sequence[str], typer.Option("--checkpoint", metavar="C")] = (),
    images: Annotated[int, typer.Option(min=0)] = 1500,
    progress: Progress = silent,
) -> Gated:
    """Find out whether a faster precision gives a study's answers: both run on the same perturbed images.

    The limits are those of the study's table [gate]: flips = 0.01, accuracy = 0.003. Verdicts are kept in the view
    `gate`. At fp32 an image costs as much as in a study: gate a few checkpoints of each architecture, on some images.
    What passes on them may be run on all.

    Args:
        study: the study: a TOML file.
        candidate: what is in question: a precision of the study's engine, or ENGINE:PRECISION; by default the study's
            precision.
        reference: what is trusted, likewise.
        checkpoints: one of the study's checkpoints; may be repeated.
        images: of each image set, drawn from all classes evenly; 0 takes all.
    """
    from ..study.gate import gate_study_precision

    study = read_study(study)
    study = replace(
        study,
        checkpoints=listed(checkpoints) or study.checkpoints,
        limit=min(filter(None, (study.limit, images)), default=0),
    )
    return gate_study_precision(study, Path(db), reference, candidate or study.precision, progress=progress)


def import_predictions(
    file: File,
    checkpoints: Annotated[Sequence[str], typer.Option("--checkpoint", metavar="NAME")],
    images: Annotated[File, typer.Option()],
    db: Database = RESULTS,
    *,
    attributes: Annotated[File | None, typer.Option(metavar="CSV")] = None,
) -> list[Imported]:
    """Import predictions on unperturbed images, into a study of each model; the database says where they came from.

    Args:
        file: Parquet or CSV: file_name, predicted_class, predicted_probability and label_probability, which may both
            be left out, and `model` where it holds several.
        checkpoints: the model that made them; repeatable.
        images: an image set, or a table of file_name and label.
        db: the results database; made if there is none.
        attributes: columns path, name, value, of the images of such a table.
    """
    from ..study.external_predictions import import_predictions

    names = listed(checkpoints)
    return import_predictions(Path(file), names, Path(images), Path(db), path_of(attributes))
