"""`bandlens init`, `power`, `progress` and `import`: before, during and instead of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import BandlensError, plural, some_of
from ..api import studies
from ..console import log
from ..printing import Format, Rows, TableFormat, duration, print_rows, print_tables
from ..terminal import command

if TYPE_CHECKING:
    from ..imported import Imported
    from ..study.file import Study
    from ..study.progress_file import RunProgress


def print_study(draft: tuple[Study, str], file: Path) -> None:
    """Examples: bandlens init study.toml, bandlens init grid.toml --study grid"""
    study, lack = draft
    print(f"{file}: {some_of(study.checkpoints)} on {some_of(study.images)}; next: bandlens plan {file}")
    if lack:
        log.info(lack)


def print_power(tables: Mapping[str, Rows], table_format: TableFormat = Format.table) -> None:
    """Example: bandlens power --difference 0.03 --discordance 0.25"""
    print_tables(tables, table_format)


def print_progress(states: Sequence[RunProgress], db: Path, table_format: TableFormat = Format.table) -> None:
    """Exit status 1 says that the process of a run was killed.

    Example: bandlens progress --db results.duckdb
    """
    if table_format != Format.table:
        print_rows([asdict(state) | {"seconds_left": state.seconds_left} for state in states], table_format)
    elif not states:
        print(f"{db}: no run writes to it")
    for state in states:
        counts = (
            f"{state.done:,.0f} of {state.total:,.0f} {state.unit} ({state.done / state.total:.0%}), process "
            f"{state.process} on {state.host}"
        )
        if state.gone:
            raise BandlensError(
                f"{db}: a run was killed while {state.activity}, after {counts}; run the same command again, "
                "which goes on with what was committed"
            )
        if table_format == Format.table:
            print(f"{db}: {state.activity}, {counts}, {_times(state)}")


def _times(state: RunProgress) -> str:
    """The time that is left, and the age of the figures."""
    rest = "time left not known yet" if state.seconds_left is None else f"about {duration(state.seconds_left)} left"
    return f"as of {duration(max(0.0, time.time() - state.written))} ago; {rest}"


def print_imports(imports: Sequence[Imported], db: Path) -> None:
    """Example: bandlens import predictions predictions.parquet --checkpoint ResNet50 --images labels.parquet"""
    for imported in imports:
        interval = f"{100 * imported.low:.2f} to {100 * imported.high:.2f}"
        print(
            f"{db}: {imported.label}, {plural(imported.images, 'prediction')} imported, "
            f"top-1 {100 * imported.top1:.3f} % ({interval})"
        )


COMMANDS: dict[str, Any] = {
    "init": command(studies.write_study, print_study),
    "power": command(studies.power, print_power),
    "progress": command(studies.run_progress, print_progress),
    "import": {"predictions": command(studies.import_predictions, print_imports)},
}
