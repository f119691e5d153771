"""From a study to rows: what is missing is run, here or on workers, and committed range by range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...analysis.comparison.precision_gate import not_passed
from ...analysis.database.errors import explanation
from ...analysis.database.open import check_snapshot, open_store, snapshots
from ...analysis.database.store import Store
from ...core.errors import BandlensError, UsageError, quoted, some_of
from ...core.jobs import Advance, Progress, silent
from ...core.log import log
from ...core.records import Failed
from ...engine.task_context import with_card_state
from ...engine.tasks import by_attack, whole_tasks
from .function_checks import check_functions
from .label_checks import doubt_numbers, doubt_results
from .record import RunRecord, Summary, failures_in_words, images_left, record_study, stored_images
from .resolve import Work
from .run_files import keep_progress, note_crashes, read_crashes

if TYPE_CHECKING:
    from ...analysis.metrics.custom import OwnMeasure
    from .workers import Workers

RANGE_SECONDS = 60.0
"""Seconds of work after which a run commits, and that it may lose."""
MOST_GAPS = 4
"""The number of metrics that a study will lack and `run` names."""


def run_study(
    work: Work,
    database: Path,
    range_seconds: float = RANGE_SECONDS,
    require_gate: bool = False,
    workers: Workers | None = None,
    snapshot: Path | None = None,
    progress: Progress = silent,
    *,
    analyze: bool = False,
) -> Summary:
    """Run what the database lacks of a study, and `analyze` it, as `api.studies.run` describes it.

    What was committed stays, and a signal has the run store what it has computed. A run that is killed outright loses
    up to `range_seconds` of work, and one on workers, by a signal too, that of each worker.
    """
    if workers is not None and work.study.probes_in_memory:
        name = work.study.probes_in_memory[0]
        raise UsageError(f"probe {name} is a function in memory, which workers lack; put it into a file")
    if database.is_dir():
        raise explanation(database, "Is a directory")
    # Whatever may refuse the run comes before a database that it would make.
    if workers is not None and workers.devices:
        from ...engine.processes import environments_of

        environments_of(workers.devices, work.study.engine)
    if snapshot:
        check_snapshot(snapshot, database)
    measures: list[OwnMeasure] = []
    if work.study.measures:
        from ...analysis.metrics.custom import read_measures

        measures = read_measures(work.study.measures, work.study.folder)
    progress, crashes = keep_progress(database, progress), read_crashes(database)
    with open_store(database) as store:
        if snapshot:
            store.after_commit = snapshots(store, snapshot)
        _check_gate(work, store, require_gate)
        image_counts = stored_images(work, store)
        if images_left(work.cells, image_counts):
            # A run with nothing to do says nothing of gaps, and starts without this module.
            from .plan import metrics_of

            metrics = metrics_of(work, measures)
            if gaps := [f"no {metric.in_words}: {metric.why}" for metric in metrics if metric.why]:
                words = some_of(gaps, MOST_GAPS, "; ")
                log.info(f"bandlens: {words}; `bandlens plan` lists the metrics of a study")
        warn(doubt_numbers(work.models, work.image_sets))
        record = RunRecord(work.cells, store, partial(record_study, work, store), image_counts)
        if workers is None:
            has_own_probes = any(family.files is not None for family in work.grid.families.values())
            with note_crashes(database) if has_own_probes else nullcontext():
                summary = run_here(work, record, range_seconds, progress, crashes)
        else:
            from .workers import run_on_workers  # sockets and other processes, which a run in this one does without

            summary = run_on_workers(work, record, workers, range_seconds, progress)
        warn([*record.throttled, *doubt_results(work, store)])
        if len({failure.cell.condition for failure in summary.failed}) > 1:
            warn(failures_in_words(summary.failed))
        if analyze and len(summary.failed) < summary.cells:
            summary = replace(summary, verdict=_analyze(store, summary.label, measures, progress))
        return summary


def _analyze(store: Store, label: str, measures: Sequence[OwnMeasure], progress: Progress) -> list[str]:
    """Compute the metrics that a version lacks, and give the verdict on it.

    Predictions are stored by now: an error is a warning, and the verdict empty.
    """
    from ...analysis.comparison.verdict import verdict  # a run without it starts without its libraries
    from ...analysis.metrics.compute import analyze_study

    try:
        analyze_study(store, label, measures, progress)
        return verdict(store, label).sentences
    except BandlensError as error:
        warn([f"{label} is not analyzed: {error}"])
        return []


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        log.warning(f"bandlens: warning: {line}")


def _check_gate(work: Work, store: Store, required: bool) -> None:
    """Warn of a precision that has not passed its gate, or refuse it."""
    missing, total = not_passed(store, work.cells, work.study.gate)
    if not missing:
        return
    variant = work.cells[0].variant
    message = (
        f"{variant.engine} {variant.precision} has not passed the precision gate for {missing} of {total} pairs of "
        "checkpoint and condition; see: bandlens gate precision STUDY.toml --candidate "
        f"{variant.engine}:{variant.precision} --db {quoted(store.path)}"
    )
    if required:
        raise BandlensError(message)
    warn([message])


def run_here(
    work: Work,
    record: RunRecord,
    range_seconds: float = RANGE_SECONDS,
    progress: Progress = silent,
    crashes: Mapping[str, str] = MappingProxyType({}),
) -> Summary:
    """Run the cells that are not complete in this process, and commit range by range.

    Cells of conditions that have `crashes` fail: by digest, what came of one.
    """
    cells_left = [cell for cell in record.todo if cell.condition.digest not in crashes]
    with work.workbench() as bench, record:
        record.pending, record.computed = bench.pending, 0
        record.sessions = lambda: with_card_state(bench.infos())
        bench.prepare(work.cells, cells_left, progress)
        cells = [cell for cell in record.cells if cell.condition.digest not in crashes]
        checked = check_functions(cells, work.study.probes_in_memory, record.store, bench)
        record.begin()
        # Cells may have got predictions of other image sets by now.
        check_functions(cells, work.study.probes_in_memory, record.store, bench, checked)
        record.commit([Failed(cell, error) for cell in record.todo if (error := crashes.get(cell.condition.digest))])
        for activity, cells in zip(("running", "attacking"), by_attack(cells_left), strict=True):
            with progress(activity, images_left(cells, record.image_counts), "predictions") as advance:

                def count(predictions: int, advance: Advance = advance) -> None:
                    record.computed = (record.computed or 0) + predictions
                    advance(predictions)

                for task in whole_tasks(cells, work.grid):
                    for outcomes in bench.compute(task, record.image_counts, range_seconds, count):
                        record.commit(outcomes, partial(with_card_state, bench.infos()))
    return record.summarize()
