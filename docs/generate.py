"""Write the pages of docs/reference, and LEADERBOARD.md, from the program itself: `python -P docs/generate.py`.

Formulas stand at the top of the modules that compute them, the keys of a study beside its fields, columns in
columns.toml, and options in the command line's help. Each page is made of these, so that nothing is said twice; a test
compares the pages with what this program makes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import typer

from bandlens import open as open_results
from bandlens import sample
from bandlens.analysis.comparison import gates
from bandlens.analysis.database.open import open_store
from bandlens.analysis.statistics.proportions import difference_interval, share_interval, share_of
from bandlens.app.cli import main as cli
from bandlens.app.cli.main import app
from bandlens.app.study import file as study_file
from bandlens.probes import grid
from bandlens.probes.family import Family

ROOT = Path(__file__).parents[1]
SHARED = 2
"""A column that this many views have with one meaning is explained once."""
BUILDING_BLOCKS = ("cell_accuracy", "cell_detail", "cell_label_accuracy", "shown_class", "stimulus_probe")
"""Views that other views are made of."""


def schema() -> str:
    """Every view of the results database, with the comments of its columns."""
    with TemporaryDirectory() as folder, open_store(Path(folder) / "empty.duckdb") as store:
        views = store.frame(
            "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal AND NOT list_contains(?, view_name) "
            "ORDER BY view_name",
            [list(BUILDING_BLOCKS)],
        ).rows()
        query = "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
        columns = {name: store.frame(query, [name]).rows() for name, _ in views}
    shared = _shared_columns([column for name, _ in views for column in columns[name]])
    parts = [SCHEMA_HEAD, "## Columns that many views have\n", _definitions(sorted(shared)), "## Views\n"]
    for name, comment in views:
        particular = [column for column in columns[name] if column not in shared and not _ends_interval(column)]
        names = ", ".join(f"`{column[0]}`" for column in columns[name] if column not in particular)
        for group, members in GROUPS.items():
            names = names.replace(members, group)
        parts += [f"### {name}\n", f"{comment}. {names}".strip() + "\n", _definitions(particular)]
    return "\n".join(part for part in [*parts, TABLES] if part)


GROUPS = {
    "*names*": "`study`, `version`, `checkpoint`, `category`",
    "*condition*": "`probe`, `cutoff`, `frequency`, `noise_sd`, `cycles`, `parameters`",
}
"""Word -> the columns that it stands for, which many views have side by side."""
SCHEMA_HEAD = f"""\
# The results database

Views show the newest version of each study. What does a column of one mean? Those named beside a view are explained
once, in the first list, and the others below it; columns that end in `low` and `high` are the ends of a 95 % interval.
`bandlens sql "DESCRIBE accuracy"` has types, and [the guide](../guide/results.md#sql) has questions to ask.

*names* stands for {GROUPS["*names*"]}, and
*condition* for {GROUPS["*condition*"]}.
"""


TABLES = """\
## Tables

Queries seldom need them. `bandlens sql "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT
internal"` explains all.
"""


def _shared_columns(columns: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """The commonest meaning of each name, where it is common enough; another meaning stands where it applies."""
    commonest: dict[str, tuple[str, str]] = {}
    for column, count in Counter(columns).most_common():
        if count >= SHARED and not _ends_interval(column):
            commonest.setdefault(column[0], column)
    return set(commonest.values())


def _ends_interval(column: tuple[str, str]) -> bool:
    name, comment = column
    return name.endswith(("low", "high")) and comment.startswith(("Lower end of", "Upper end of"))


def _definitions(columns: list[tuple[str, str]]) -> str:
    return "\\\n".join(f"`{name}`: {comment}" for name, comment in columns) + "\n" * bool(columns)


def _modules(package: str) -> Iterator[ModuleType]:
    """The package itself, then its modules by name."""
    root = importlib.import_module(f"bandlens.{package}")
    yield root
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda info: info.name):
        if not info.ispkg:
            yield importlib.import_module(f"{root.__name__}.{info.name}")


def _explained(modules: Iterator[ModuleType]) -> str:
    """A section for each module whose docstring has more than a line: its title, its file, its text."""
    parts = []
    for module in modules:
        text = inspect.cleandoc(module.__doc__ or "")
        if "\n" in text:
            name = module.__name__.removeprefix("bandlens.")
            title = name.rsplit(".", 1)[-1].replace("_", " ").capitalize()
            file = name.replace(".", "/") + ("/__init__.py" if hasattr(module, "__path__") else ".py")
            parts.append(f"## {title}\n\n`{file}`. {text}\n")
    return "\n".join(parts)


def measures() -> str:
    """Every measure: its formula, its units, its source, and what makes it undetermined."""
    families = [*_modules("analysis.metrics.families")]
    others = [importlib.import_module(f"bandlens.analysis.metrics.{name}") for name in ("custom", "slices")]
    by_name = sorted([*families, *others], key=lambda module: module.__name__.rsplit(".", 1)[-1])
    return f"{MEASURES_HEAD}\n{_explained(iter(by_name))}"


MEASURES_HEAD = """\
# Measures

By which formula does bandlens compute a number, and where does it come from? [The guide to
measures](../guide/measures.md) says which command gives a number, which states it can have, and what it needs;
`bandlens measures list` has titles and units. Intervals are of 95 %.
"""


def probes() -> str:
    """Every built-in probe: its formula and its source."""
    modules = (
        module
        for module in _modules("probes")
        if module is not grid and any(isinstance(value, Family) for value in vars(module).values())
    )
    return f"{PROBES_HEAD}\n{_explained(modules)}"


PROBES_HEAD = """\
# Probes

By which formula does a probe change an image, and where does it come from? [The guide to
probes](../guide/probes.md) has their parameters.
"""


def statistics() -> str:
    """Intervals, tests, coefficients and comparisons."""
    packages = ("analysis.statistics", "analysis.correlations", "analysis.comparison")
    modules = (module for package in packages for module in _modules(package))
    return f"{STATISTICS_HEAD}\n{_explained(modules)}"


STATISTICS_HEAD = """\
# Statistics

How are the intervals, tests and coefficients made that `bandlens compare`, `correlate`, `gate` and the views show?
[The guide to comparisons](../guide/compare.md) says how to read them. Of intervals of shares of images in clusters, 94
to 100 of 100 hold the true number ([measured](../measured.md#how-often-intervals-hold)).
"""


def study() -> str:
    """Every key of a study file."""
    keys = _described_fields(study_file, "Study")
    limits = _described_fields(gates, "Limits")
    return STUDY.format(keys=_rows(keys, study_file.KEYS), limits=_rows(limits, list(limits)))


def _described_fields(module: ModuleType, name: str) -> dict[str, str]:
    """Field -> the docstring below it, on one line; a field without one is a KeyError of those who ask for it."""
    tree = ast.parse(inspect.getsource(module))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    described = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            described[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return described


def _rows(described: Mapping[str, str], keys: list[str]) -> str:
    return "".join(f"- `{key}`: {described[key]}\n" for key in keys)


STUDY = """\
# Study files

```sh
bandlens init study.toml           # for your models and images
bandlens init study.toml --study grid   # or paper, human-probes, fourier-map, shape-under-filters, reliance, octaves
bandlens plan study.toml
```

Paths are relative to the file's folder. [The tutorial](../guide/tutorial.md#the-study) writes a study.

{keys}
The table `[gate]` says what gates of [precisions](../guide/decide.md#may-a-faster-precision-answer-for-fp32) and
[releases](../guide/decide.md#is-this-release-safe-to-ship) let pass:

{limits}"""


def commands() -> str:
    """Every command in a clause, with the arguments and options that it needs."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="bandlens")
    parts = [COMMANDS_HEAD]
    for heading, names in cli.COMMANDS.items():
        parts.append(f"\n## {heading}\n\n")
        parts += [line for name in names for line in _command(root.commands[name], name, context)]
    return "".join(parts)


COMMANDS_HEAD = """\
# Commands

Which command does a job? `bandlens COMMAND --help` has its options, with an example ([what all have in
common](../faq.md#exit-codes)).
"""


def _command(command: Any, path: str, parent: Any) -> Iterator[str]:
    """A line for each command that can be run, in the order of the help."""
    context = typer.Context(command, info_name=path.rsplit(" ", 1)[-1], parent=parent)
    for name, below in getattr(command, "commands", {}).items():
        yield from _command(below, f"{path} {name}", context)
    if not hasattr(command, "commands"):
        arguments = [option for option in command.get_params(context) if option.required]
        arguments.sort(key=lambda option: option.opts[0].startswith("-"))
        words = [path, *(_usage(option) for option in arguments)]
        summary = " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())
        yield f"- `{' '.join(words)}`: {CLAUSE_END.split(summary)[0].rstrip('.')}.\n"


CLAUSE_END = re.compile(r"[.:;] ")
"""The end of the clause that the page takes of a command's help."""


def _usage(option: Any) -> str:
    """An argument or option as it is typed: STUDY, or --out PATH."""
    value = (option.metavar or option.name).upper()
    return f"{option.opts[0]} {value}" if option.opts[0].startswith("-") else value


def leaderboard() -> str:
    """Models of the sample, in a table for each digest of images and of conditions."""
    with TemporaryDirectory() as folder, open_results(sample(Path(folder) / "sample.duckdb")) as results:
        frames = [results.sql(query).partition_by("board", as_dict=True) for query in (BOARDS, ANSWERS)]
        metrics = {row[:-1]: row[-1] for row in results.sql(METRICS).rows()}
    (boards, answers), parts = frames, [LEADERBOARD_HEAD]
    for board, models in boards.items():
        title, images, conditions = models.select("title", "images", "conditions").row(0)
        keys = models.select("version", "checkpoint").rows()
        leanings = [name for name in LEANINGS if any((*key, name) in metrics for key in keys)]
        heads = ["model", "precision", "perturbed", "less than above", "clean", *map(LEANINGS.__getitem__, leanings)]
        parts.append(f"## {title}\n\nImages `{images[:12]}`, conditions `{conditions[:12]}`.\n\n")
        parts.append(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n")
        scores = {
            key: share_of(rows["score"].to_numpy(), rows["cluster"].to_numpy())
            for key, rows in answers[board].partition_by("version", "checkpoint", as_dict=True).items()
        }
        above = None
        for row in sorted(models.rows(named=True), key=lambda row: -scores[row["version"], row["checkpoint"]].value):
            share = scores[row["version"], row["checkpoint"]]
            loss = above and _interval(above.value - share.value, difference_interval(share, above))
            cells = [
                row["checkpoint"],
                row["precision"],
                _interval(share.value, share_interval(share)),
                loss or "",
                _interval(row["top1"], (row["low"], row["high"])),
                *(metrics.get((row["version"], row["checkpoint"], name), "") for name in leanings),
            ]
            parts.append(f"| {' | '.join(cells)} |\n")
            above = share
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _interval(value: float, ends: tuple[float, float] | None) -> str:
    low, high = ends or (nan, nan)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


LEANINGS = {
    "low_frequency_bias": "low-frequency bias",
    "high_frequency_bias": "high-frequency bias",
    "lowpass_half_cut": "half cut",
}
"""Measure -> the title of its column."""
BOARDS = """
WITH model AS (
    SELECT version, checkpoint, precision, image_set, any_value(image_set_id) AS id,
           md5(string_agg(digest, ' ' ORDER BY digest)) AS conditions,
           count(*) AS cells, string_agg(DISTINCT probe, ', ' ORDER BY probe) FILTER (probe <> 'clean') AS probes,
    FROM study_detail JOIN (SELECT id AS cell, condition FROM cell) USING (cell)
    JOIN (SELECT id AS condition, digest FROM condition) USING (condition)
    GROUP BY ALL
)
SELECT dense_rank() OVER (ORDER BY n DESC, digest, conditions) AS board, version, checkpoint, precision, top1, low,
       high, digest AS images, conditions,
       format('{} images of {}, {} conditions: {}', n, image_set, cells, probes) AS title
FROM model JOIN image_set ON image_set.id = model.id
JOIN (FROM accuracy SELECT version, checkpoint, image_set, n, top1, low, high WHERE probe = 'clean')
  USING (version, checkpoint, image_set)
QUALIFY count(*) OVER (PARTITION BY digest, conditions) > 1
ORDER BY board
"""
"""Models by the digests of their images and conditions, where a board has several."""
ANSWERS = f"""
SELECT board, version, checkpoint, cluster, avg(correct::INTEGER) AS score
FROM ({BOARDS}) JOIN study_detail USING (version, checkpoint) JOIN cell_outcome USING (cell) WHERE probe <> 'clean'
GROUP BY board, version, checkpoint, image_index, cluster ORDER BY board, cluster, image_index
"""
"""For each image, the share of perturbed conditions under which a model is right."""
METRICS = f"""
SELECT version, checkpoint, replace(metric, 'corrected_', '') AS name,
       format(replace('# [#, #]', '#', IF(name LIKE '%cut', '{{:.1f}}', '{{:.3f}}')), value, low, high)
           || IF(state = 'at_chance', ', at chance', '')
FROM metric WHERE name IN {tuple(LEANINGS)} AND low IS NOT NULL ORDER BY metric DESC
"""
"""Numbers above chance come last, and take the place of those that are not."""
LEADERBOARD_HEAD = """\
# Leaderboard

Which network still answers right when frequencies are taken away or drowned in noise? These are the results that come
along (`bandlens sample`); [the findings](docs/findings.md#what-the-sample-shows) say what they are of, and what not.

Only models that saw the same images under the same conditions stand in one table, by the digests of both. They are
ranked by their accuracy over all perturbed conditions, each with the same weight. The next column compares a model
with the one above it, image by image: where that interval holds 0, their order is not settled. The half cut is the
low-pass, in cycles per image, that leaves half of the accuracy. Biases and half cuts are above chance where models
decide between few classes, and `at chance` where they cannot be told from those of a blind guess. Intervals are of
95 %, over images; nothing is corrected for several tests.

"""


PAGES: Mapping[str, Callable[[], str]] = {
    **{f"docs/reference/{make.__name__}.md": make for make in (schema, probes, measures, statistics, study, commands)},
    "LEADERBOARD.md": leaderboard,
}


def main() -> None:
    for name, make in PAGES.items():
        (ROOT / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
