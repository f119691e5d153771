"""Two versions of bandlens, A and B, in turn: analyze, report, compare, a run with nothing to do, and appending.

A version is a checkout with a .venv, or a Python executable that imports bandlens from a checkout. Each makes databases
of its own, since a schema may change: the demo's, and one of 48 checkpoints x 52 conditions x 1,000 images with made-up
predictions, by its many_models.py. Commands are whole processes. Appending is what its store.py measures, the median
over transactions of 650,000 predictions. Ratios are B over A: below 1, B is faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import Variant, arguments, folder, in_turn, machine, ratio, ratios, run_program, table, timed

COMMANDS = {
    "analyze, demo": "analyze --db demo/results.duckdb",
    "analyze, many": "analyze --db many/many.duckdb",
    "report, demo": "report --db demo/results.duckdb --out report.html",
    "report, many": "report --db many/many.duckdb --out report.html",
    "compare, many": "compare many --checkpoints model0,model1 --db many/many.duckdb",
    "nothing to run, demo": "run demo/study.toml --db demo/results.duckdb",
    "nothing to run, many": "run many/many.toml --db many/many.duckdb",
}
APPEND = "append, a million predictions"
GOALS = {"nothing to run, demo": "0.9", "nothing to run, many": "0.9", APPEND: "0.1"}
"""Goals in seconds; the goal of the other commands is the time of A."""
TRANSACTION = 650_000 // 52
"""Images of a transaction, each under 52 conditions."""
RATE = re.compile(r"^append, M predictions/s, by transaction +([\d.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Version:
    """The interpreter of a version, its checkout, and the folder of its databases."""

    python: Path
    checkout: Path
    folder: Path

    def run(self, *words: str) -> str:
        """Run Python there; gives what it printed."""
        home = {"BANDLENS_HOME": str(self.folder / "home")}
        return run_program(self.python, *words, cwd=self.folder, env=home)[0]

    def benchmark(self, name: str, *words: str) -> str:
        return self.run(str(self.checkout / "benchmarks" / f"{name}.py"), *words)

    def bandlens(self, line: str) -> Callable[[], str]:
        return lambda: self.run("-P", "-m", "bandlens", *line.split())


def version(place: str, folder: Path) -> Version:
    """Find the interpreter and the checkout of a version."""
    path = Path(place).absolute()
    python = path / ".venv" / "bin" / "python" if path.is_dir() else path
    if not python.is_file():
        raise SystemExit(f"no Python at {python}; give --a and --b a checkout with a .venv, or a Python executable")
    folder.mkdir(parents=True, exist_ok=True)
    file, _ = run_program(python, "-P", "-c", "import bandlens; print(bandlens.__file__)")
    return Version(python, Path(file.strip()).parent, folder)


def prepare(made: Version, size: Sequence[str]) -> None:
    """Make the databases that are not there yet, and analyze the made-up one, so that there is what to report."""
    if not (made.folder / "demo" / "results.duckdb").exists():
        made.bandlens("demo --out demo")()
    if not (made.folder / "many" / "many.duckdb").exists():
        made.benchmark("many_models", "--keep", "many", "--repeats", "1", *size)
    made.bandlens(COMMANDS["analyze, many"])()


def append(made: Version, checkpoints: int) -> Variant:
    """Seconds that a million predictions take to be stored."""
    words = ("--range", str(TRANSACTION), "--checkpoints", str(checkpoints), "--repeats", "1")

    def seconds() -> float:
        printed = made.benchmark("store", *words)
        rate = RATE.search(printed)
        if rate is None:
            raise SystemExit(f"{made.checkout}: store.py told no rate: {printed}")
        return 1 / float(rate[1])

    return seconds


def main() -> None:
    text = "checkout or Python executable of a version"
    options = arguments(__doc__, repeats=7, quick=1, a=("", text), b=("", text), appended=(4, "checkpoints to append"))
    checkpoints, images, appended = (4, 100, 1) if options.quick else (48, 1000, options.appended)
    size = ("--checkpoints", str(checkpoints), "--images", str(images))
    with folder(options.keep) as scratch:
        place = scratch.absolute() / f"{checkpoints}x{images}"
        versions = {name: version(path, place / name) for name, path in (("A", options.a), ("B", options.b))}
        machine("duckdb", "polars")
        for name, made in versions.items():
            print(f"{name}: {made.checkout}")
            prepare(made, size)
        variants: dict[str, Variant] = {}
        for what, line in COMMANDS.items():
            variants |= {f"{what} {name}": timed(made.bandlens(line)) for name, made in versions.items()}
        variants |= {f"{APPEND} {name}": append(made, appended) for name, made in versions.items()}
        seconds = in_turn(variants, options.repeats)
    rows = {what: (seconds[f"{what} A"], seconds[f"{what} B"]) for what in (*COMMANDS, APPEND)}
    table(
        ["what", "A, s", "B, s", "B over A", "goal of B, s"],
        [[what, a, b, ratios(b, a), GOALS.get(what, "A's")] for what, (a, b) in rows.items()],
    )
    for what, (a, b) in rows.items():
        ratio(f"{what}: B over A", ratios(b, a), "<= 1")


if __name__ == "__main__":
    main()
