"""`bandlens plan`."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import amount, some_of
from ...untrusted import one_line
from ..console import Json, duration, print_rows
from .options import GATE_IMAGES, Database, EngineOption, StudyFile, opened

MOST_FILES = 5
"""Files of a user's probe that are named, apart from JSON."""


def plan(
    study: StudyFile, db: Database = Path("results.duckdb"), engine: EngineOption = None, as_json: Json = False
) -> None:
    """Show which cells of a study are done, missing or stale, an estimate of the time, and which metrics it will have.

    Example: bandlens plan study.toml --db results.duckdb
    """
    from ...engine.tasks import by_attack
    from ..study.plan import plan_study

    work = opened(study, engine)
    found = plan_study(work, db)
    precise = work.study.precision == "fp32"
    gated = 0 if precise else sum(min(cell.image_set.count, GATE_IMAGES) for cell in by_attack(work.cells)[0])
    own = [family for family in work.grid.families.values() if family.files]
    if as_json:
        summary = {
            "cells": len(found.missing),
            "predictions": found.predictions,
            "seconds": round(found.seconds, 1),
            "operations": found.cost.operations,
            "attack_operations": found.cost.attack_operations,
            "h100_seconds_at_peak": found.cost.h100_seconds,
            "database_bytes": round(found.cost.database_bytes),
            "image_bytes": found.cost.image_bytes,
        }
        missing = [
            {"checkpoint": cell.model.name, "image_set": cell.image_set.name, "condition": str(cell.condition)}
            for cell in found.missing
        ]
        print(
            json.dumps(
                {
                    "rows": found.rows,
                    "packed": [
                        {"preprocessing": how, "checkpoints": models, "image_sets": sets}
                        for how, (models, sets) in found.packed.items()
                    ],
                    "to_run": summary | {"estimate": found.estimate},
                    "smaller_maps": found.smaller_maps,
                    "missing": missing,
                    "gate_predictions": gated,
                    "metrics": [
                        {"image_set": one.image_set, "metrics": list(one.metrics), "determined": not one.why}
                        | {"why": one.why}
                        for one in found.metrics
                    ],
                    "condition_metrics": found.condition_metrics,
                    "own_probes": [{"probe": one.name, "files": list(one.files), "random": one.random} for one in own],
                    "failed": [{"cell": str(failure.cell), "error": failure.error} for failure in found.failed],
                },
                indent=1,
            )
        )
        return
    print_rows(found.rows)
    if len(found.packed) > 1:
        for how, (models, sets) in found.packed.items():
            print(f"{how}: {some_of(models)} on {some_of(sets)}")
    if found.missing:
        print(
            f"to run: {len(found.missing):,} cells, {found.predictions:,} predictions, "
            f"about {duration(found.seconds)} here ({found.estimate})"
        )
        least = found.cost.h100_seconds
        on_h100 = "unknown" if least is None else f"no less than {duration(least)} (its peak)"
        print(
            f"images: {amount(found.cost.image_bytes)}; database: {amount(found.cost.database_bytes)} more; "
            f"on an H100: {on_h100}"
        )
    else:
        print("nothing to run: every cell is done")
    if found.smaller_maps:
        maps = ", ".join(f"{name} {count:,}" for name, count in found.smaller_maps.items())
        print(f"predictions of smaller maps of waves: {maps}")
    for one in own:
        named = one_line(some_of(one.files, MOST_FILES))
        print(f"{one.name} depends on {named}; what it reads elsewhere is not seen")
    if gated:
        print(
            f"`bandlens gate` takes {GATE_IMAGES:,} images of each set at most, and runs {gated:,} predictions at fp32 "
            f"and as many at {work.study.precision}; on all images (--images 0) it takes longer than the study itself"
        )
    if there := [str(one) for one in found.metrics if not one.why]:
        print(f"metrics: {', '.join(there)}")
    alike: dict[str, list[str]] = {}
    for image_set, metrics in found.condition_metrics.items():
        alike.setdefault(", ".join(metrics), []).append(image_set)
    for names, image_sets in alike.items():
        print(f"under each condition of {some_of(image_sets)}: {names}")
    for lacking in found.metrics:
        if lacking.why:
            print(f"no {lacking}: {lacking.why}")
    if found.failed:
        first = found.failed[0]
        print(f"failed when last tried: {len(found.failed):,} cells, the first: {first.cell}: {first.error}")
