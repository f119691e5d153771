"""Run the gates of a study: compare two precisions on the same perturbed images, or a release with an earlier one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...analysis.comparison.cell_pairs import MATCH, Run, two_of
from ...analysis.comparison.gates import Gated, Limits
from ...analysis.comparison.precision_gate import gate_precision
from ...analysis.comparison.release_gate import check_known, check_names, gate_release
from ...analysis.database.open import open_store, split_against
from ...analysis.database.study_versions import earlier_label, study_label
from ...core.errors import StoreError, UsageError, plural, quoted, some_of
from ...core.jobs import Progress, silent
from ...core.log import log
from ...engine.backends.base import ENGINES, engine_of
from ...engine.tasks import by_attack
from ...probes.grid import condition_in_words
from ...probes.images.image_set import PackedSet
from .file import Study, stored_limits
from .record import record_cells
from .resolve import Work, resolve, settle_engine
from .result_writer import ResultWriter
from .reuse import find_stored
from .run_monitor import RunMonitor
from .runner import run_here, run_study, warn


def gate_study_precision(
    study: Study,
    database: Path,
    reference: str,
    candidate: str,
    progress: Progress = silent,
) -> Gated:
    """Run the missing cells of two precisions, and test whether the candidate is equivalent to the reference.

    Each batch is perturbed once and passed to both. The cells are stored without a study, so that the views of the
    study show a single precision. An interrupted gate resumes with the committed predictions.

    Args:
        study: The study.
        database: Results database.
        reference: Trusted precision: a precision of the study's engine, or ENGINE:PRECISION.
        candidate: Precision to test, in the same form.
        progress: Progress display.

    Raises:
        UsageError: Both are the same, or they cannot share the perturbed images.
    """
    # The engine is selected once, for the precision of the study. A separate selection for each precision could choose
    # two different engines.
    study = replace(study, engine=settle_engine(study, database)[0].engine)
    trusted = _resolve_precision(study, "reference", reference)
    packed_sets = {images.folder: images.packed for images in trusted.image_sets}
    works = trusted, _resolve_precision(study, "candidate", candidate, packed_sets)
    names = [f"{work.study.engine}:{work.study.precision}" for work in works]
    # An imported ONNX file with a fixed precision always runs at that precision. Both selections then give equal cells.
    pairs = list(zip(works[0].cells, works[1].cells, strict=True))
    if all(cell == counterpart for cell, counterpart in pairs):
        raise UsageError(
            f"{names[0]} would be compared with itself; name another: --candidate ENGINE:PRECISION, or judge a "
            "release: bandlens gate STUDY --against NAME"
        )
    arrays = [engine_of(work.study.engine).arrays for work in works]
    if arrays[0] != arrays[1]:
        raise UsageError(
            f"{names[0]} takes {arrays[0]} arrays and {names[1]} {arrays[1]} ones, so they cannot share perturbed "
            "images; name two engines of the CPU, or two of the GPU"
        )
    # Both use the batch size of the candidate. It follows the candidate's TensorRT plans, with which it will be
    # deployed.
    study_of_both = replace(works[0].study, batch=works[1].study.batch)
    cells = list(dict.fromkeys(cell for work in works for cell in work.cells))
    work = replace(works[0], study=study_of_both, cells=cells)
    with open_store(database) as store:
        stored = find_stored(work, store)

        def begin() -> str:
            record_cells(work, store, stored.reusable)
            return f"{names[1]} against {names[0]}"

        writer = ResultWriter(work.cells, store, begin, stored.image_counts)
        summary = run_here(work, writer, RunMonitor(database, progress))
        warn(list(writer.throttled))
        total = len(work.models) * len(work.image_sets)
        with progress("comparing", total, "checkpoints and image sets") as advance:
            gated = gate_precision(store, summary.label, pairs, study.gate, advance)
            return replace(gated, run_summary=summary, databases=[database])


def _resolve_precision(
    study: Study, option: str, text: str, packed_sets: Mapping[Path, PackedSet] = MappingProxyType({})
) -> Work:
    engine, _, precision = text.rpartition(":")
    if not precision or (":" in text and not engine) or text in ENGINES:
        raise UsageError(f"--{option} must be PRECISION or ENGINE:PRECISION, such as openvino:int8, not '{text}'")
    study = replace(study, engine=engine or study.engine, precision=precision)
    work = resolve(study, packed_sets=packed_sets)
    # Attacks always run at their own precision, so they are not part of the comparison.
    return replace(work, cells=by_attack(work.cells)[0])


def gate_study_release(
    study: Study | str, against: str, database: Path, limits: Mapping[str, Any], progress: Progress = silent
) -> Gated:
    """Test whether a release is worse than an earlier one, as described in `api.studies.gate`.

    Args:
        study: The release: a study, whose missing cells are run first, or the name of a stored study.
        against: The earlier release: a study in the same database or in another one.
        database: Results database.
        limits: Limits that override those of the study.
        progress: Progress display.

    Checkpoints are matched by name. If each of the two has a single checkpoint, their names may differ.

    Raises:
        UsageError: There is nothing to compare.
        BandlensError: A cell failed.
        StoreError: A database cannot be read.
    """
    name, (file, word) = study if isinstance(study, str) else study.name, split_against(against)
    with open_store(file or database, read_only=True) as store:
        # Resolve the label now: after the release has run, the newest version of the name would be the release itself.
        label_a = earlier_label(store, word, name.partition("@")[0])
    summary = None
    if isinstance(study, Study):
        work = resolve(study, database)
        # Check all names before a run that may take hours.
        check_names(replace(study.gate, **limits))
        check_known("conditions", study.gate.conditions, {condition.probe for condition in work.grid.conditions})
        summary = run_study(work, database, progress=progress).raise_failures()
    with ExitStack() as stack:
        store_b = stack.enter_context(open_store(database, read_only=True))
        is_other_file = file is not None and file.resolve() != database.resolve()
        store_a = stack.enter_context(open_store(file or database, read_only=True)) if is_other_file else store_b
        run_a, run_b = Run(store_a, label_a), Run(store_b, summary.label if summary else study_label(store_b, name))
        toml = run_b.store.frame(
            "SELECT toml FROM study JOIN study_version ON study_id = id WHERE label = ?", [run_b.label]
        )
        study_limits = study.gate if isinstance(study, Study) else stored_limits(run_b.label, str(toml.item()))
        _refuse_unfinished(run_b, replace(study_limits, **limits), against)
        query = "SELECT DISTINCT checkpoint FROM study_detail_of(?) ORDER BY ALL"
        names_a, names_b = (run.store.frame(query, [run.label])["checkpoint"].to_list() for run in (run_a, run_b))
        if len(names_a) == len(names_b) == 1 and names_a != names_b:
            run_a, run_b = two_of(run_a, run_b, "checkpoint", *names_a, *names_b)
        with progress("judging", None, "cells") as advance:
            gated = gate_release(run_a, run_b, replace(study_limits, **limits), advance)
        path = os.path.relpath(store_a.path.resolve(), database.resolve().parent)
        against_label = f"{run_a.label} of {path}" if is_other_file else run_a.label
    try:
        with open_store(database) as store:
            store.write_release(run_b.label, against_label, gated.rows.drop(NOT_STORED))
    except StoreError as error:
        log.warning(f"bandlens: warning: the verdicts are not kept: {error}")
    return replace(gated, run_summary=summary, databases=[store_a.path, store_b.path])


NOT_STORED = (*MATCH, "cycles", "flips_low", "flips_high", "max_flips", "note")
"""Columns of a verdict that are not stored, because they follow from the cell or do not belong to a release gate."""


def _refuse_unfinished(run: Run, limits: Limits, against: str) -> None:
    """Raise UsageError if a stored release has incomplete cells, because these would pass without a test."""
    query = (
        "SELECT probe, parameters, NULL AS cycles, complete FROM study_version "
        "JOIN study_cell ON study_cell.study = study_id JOIN cell ON cell.id = study_cell.cell "
        "JOIN condition ON condition.id = cell.condition "
        "WHERE label = $1 AND (len($2::VARCHAR[]) = 0 OR list_contains($2::VARCHAR[], probe))"
    )
    cells = run.store.frame(query, [run.label, [*limits.conditions]]).to_dicts()
    lacking = [condition_in_words(cell) for cell in cells if not cell["complete"]]
    if lacking:
        raise UsageError(
            f"{run.label} lacks {len(lacking):,} of its {plural(len(cells), 'cell')} in {run.store.path} "
            f"({some_of(sorted(set(lacking)))}), which would pass unjudged; run them, or name the study's file, "
            f"whose gate does: bandlens gate STUDY.toml --against {quoted(against)}"
        )
