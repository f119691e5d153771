"""From a study to rows: `run_phases` has the phases of a run, each a function of the study and the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from .record import record_study
from .resolve import Work
from .result_writer import ResultWriter
from .reuse import StoredPredictions, count_remaining, find_stored
from .run_monitor import RunMonitor, read_crashes
from .summary import Summary, summarize_failures

if TYPE_CHECKING:
    from ...analysis.metrics.custom import OwnMeasure
    from .workers import Workers

RANGE_SECONDS = 60.0
"""Seconds of work after which a run commits, and that it may lose."""
MOST_GAPS = 4
"""The number of metrics that a study will lack and `run` names."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run: see `run_study`."""

    monitor: RunMonitor
    range_seconds: float = RANGE_SECONDS
    require_gate: bool = False
    workers: Workers | None = None
    analyze: bool = False
    measures: Sequence[OwnMeasure] = ()
    """The study's own measures."""


def run_phases(work: Work, store: Store, options: RunOptions) -> Summary:
    """Run a study, phase by phase."""
    check_gate(work, store, options.require_gate)
    stored = find_stored(work, store)
    warn_before(work, stored, options)
    summary = compute(work, store, stored, options)
    warn_after(work, store, summary)
    return analyze(store, summary, options)


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
    # Whatever may refuse the run comes before a database that it would make.
    if workers is not None and work.study.probes_in_memory:
        name = work.study.probes_in_memory[0]
        raise UsageError(f"probe {name} is a function in memory, which workers lack; put it into a file")
    if database.is_dir():
        raise explanation(database, "Is a directory")
    if workers is not None and workers.devices:
        from ...engine.processes import environments_of

        environments_of(workers.devices, work.study.engine)
    if snapshot:
        check_snapshot(snapshot, database)
    measures: list[OwnMeasure] = []
    if work.study.measures:
        from ...analysis.metrics.custom import read_measures

        measures = read_measures(work.study.measures, work.study.folder)
    monitor = RunMonitor(database, progress)
    with open_store(database) as store:
        if snapshot:
            store.after_commit = snapshots(store, snapshot)
        return run_phases(work, store, RunOptions(monitor, range_seconds, require_gate, workers, analyze, measures))


def check_gate(work: Work, store: Store, required: bool) -> None:
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


def warn_before(work: Work, stored: StoredPredictions, options: RunOptions) -> None:
    """Name the metrics that the study lacks conditions for, and labels that may be numbered otherwise than classes."""
    if count_remaining(work.cells, stored.image_counts):
        # A run with nothing to do says nothing of gaps, and starts without this module.
        from .plan import metrics_of

        metrics = metrics_of(work, options.measures)
        if gaps := [f"no {metric.in_words}: {metric.why}" for metric in metrics if metric.why]:
            words = some_of(gaps, MOST_GAPS, "; ")
            log.info(f"bandlens: {words}; `bandlens plan` lists the metrics of a study")
    warn(doubt_numbers(work.models, work.image_sets))


def compute(work: Work, store: Store, stored: StoredPredictions, options: RunOptions) -> Summary:
    """Compute the missing predictions, here or on workers, and commit them range by range."""
    record_cells = partial(record_study, work, store, stored.reusable)
    writer = ResultWriter(work.cells, store, record_cells, stored.image_counts)
    crashes = read_crashes(options.monitor.database)
    if options.workers is None:
        has_custom_probes = any(family.files is not None for family in work.grid.families.values())
        with options.monitor.noting_crashes() if has_custom_probes else nullcontext():
            summary = run_here(work, writer, options.monitor, options.range_seconds, crashes)
    else:
        from .workers import run_on_workers  # sockets and other processes, which a run in this one does without

        summary = run_on_workers(work, writer, options.workers, options.range_seconds, options.monitor)
    warn(list(writer.throttled))
    return summary


def run_here(
    work: Work,
    writer: ResultWriter,
    monitor: RunMonitor,
    range_seconds: float = RANGE_SECONDS,
    crashes: Mapping[str, str] = MappingProxyType({}),
) -> Summary:
    """Run the cells that are not complete in this process, and commit range by range.

    Cells of conditions that have `crashes` fail: by digest, what came of one.
    """
    cells_left = [cell for cell in writer.todo if cell.condition.digest not in crashes]
    with work.workbench() as bench, monitor.saving(writer.save), writer:
        writer.pending, writer.computed = bench.pending, 0
        writer.sessions = lambda: with_card_state(bench.infos())
        bench.prepare(work.cells, cells_left, monitor.progress)
        cells = [cell for cell in writer.cells if cell.condition.digest not in crashes]
        checked = check_functions(cells, work.study.probes_in_memory, writer.store, bench)
        writer.begin()
        # Cells may have got predictions of other image sets by now.
        check_functions(cells, work.study.probes_in_memory, writer.store, bench, checked)
        writer.commit([Failed(cell, error) for cell in writer.todo if (error := crashes.get(cell.condition.digest))])
        for activity, cells in zip(("running", "attacking"), by_attack(cells_left), strict=True):
            with monitor.progress(activity, count_remaining(cells, writer.image_counts), "predictions") as advance:

                def count(predictions: int, advance: Advance = advance) -> None:
                    writer.computed = (writer.computed or 0) + predictions
                    advance(predictions)

                for task in whole_tasks(cells, work.grid):
                    for outcomes in bench.compute(task, writer.image_counts, range_seconds, count):
                        writer.commit(outcomes, partial(with_card_state, bench.infos()))
    return writer.summarize()


def warn_after(work: Work, store: Store, summary: Summary) -> None:
    """Warn of accuracies below chance, and of errors under several conditions."""
    warn(doubt_results(work, store))
    if len({failure.cell.condition for failure in summary.failed}) > 1:
        warn(summarize_failures(summary.failed))


def analyze(store: Store, summary: Summary, options: RunOptions) -> Summary:
    """Compute the metrics that a version lacks, and add the verdict on it to the summary.

    Predictions are stored by now: an error is a warning, and the verdict empty.
    """
    if not options.analyze or len(summary.failed) >= summary.cells:
        return summary
    from ...analysis.comparison.verdict import verdict  # a run without it starts without its libraries
    from ...analysis.metrics.compute import analyze_study

    try:
        analyze_study(store, summary.label, options.measures, options.monitor.progress)
        return replace(summary, verdict=verdict(store, summary.label).sentences)
    except BandlensError as error:
        warn([f"{summary.label} is not analyzed: {error}"])
        return summary


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        log.warning(f"bandlens: warning: {line}")
