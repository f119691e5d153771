"""Write the verdict on a study, or on two runs: sentences made from estimates, their intervals and their states."""

# `Words.verdict` contains the phrases for the states of a metric, and `Words.change` those for a difference. A value
# whose state does not allow a conclusion gets no sentence. Lines at the end list for which models it is not determined,
# why, and what to do (`Words.remedies`). Two runs are compared in their biases and in clean accuracy, as described in
# the guide to comparisons. The intervals of the biases are not corrected for multiple comparisons. A case is a
# checkpoint on an image set.

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import scipy

from ...core.errors import plural, quoted
from ...core.protocol import CUES
from ..database.store import Store
from ..database.study_versions import read_conditions, with_facts
from ..metrics.base import REMEDIES, UNLABELLED_REMEDIES, Measure, State, Words
from ..metrics.compute import has_values
from ..metrics.registry import CONDITION_MEASURES, GRID_MEASURES, MEASURES, title_of, without_replaced
from ..statistics import ALPHA, Z
from .cell_pairs import DIFFERS, Run, compare_cells, two_of
from .metric_pairs import METRIC_KEYS, OTHER_IMAGES, compare_measures

STATE_WORDS = {
    measure.name: measure.display.words.verdict for measure in GRID_MEASURES if measure.display.words.verdict
}
"""Metric -> what a model does in each state."""
CLEAN = "clean {}"
"""Key of the phrases for accuracy or agreement on clean images, with the name of the metric as placeholder."""
MAIN: Sequence[Measure[Any]] = [measure for measure in CONDITION_MEASURES if measure.display.primary]
COMPARED: Sequence[Measure[Any]] = [measure for measure in (*MAIN, *GRID_MEASURES) if measure.display.words.change]
WORDS = {
    CLEAN.format(measure.name): Words(change=measure.display.words.clean_change)
    for measure in MAIN
    if measure.display.words.clean_change
} | {measure.name: measure.display.words for measure in COMPARED}
"""Metric -> phrases for sentences about two runs, in the order of the sentences."""
CHOICES = [measure.name for measure in MEASURES.values() if measure.display.words.is_choice]
"""Metrics whose value belongs to one of several slices."""
WORST_PARTS = {
    measure.name: measure.display.words.worst_part for measure in MEASURES.values() if measure.display.words.worst_part
}
"""Metric -> clause about the slice on which a model loses most."""
NAMED_MEASURES = 3
"""Maximum number of metrics other than accuracies and biases that are named. Further ones are only counted."""
NAMED_MODELS = 5
"""Maximum number of models that have a sentence each, and of names in a list.

If there are more models, only those with the lowest and the highest value are described."""
METRICS = """
SELECT metric.checkpoint, metric.image_set, metric, value, metric.low, metric.high, state, note, labelled
FROM metric_of($1) AS metric
JOIN (SELECT DISTINCT image_set, labelled FROM study_detail_of($1)) USING (image_set)
WHERE list_contains($2, metric)
ORDER BY ALL
"""
CENSORED = (State.CENSORED_BELOW, State.CENSORED_ABOVE)
LOW, HIGH, DIFFERENCE = pl.col("low"), pl.col("high"), pl.col("difference")
STATE_A, STATE_B, UP, DOWN = pl.col("state_a"), pl.col("state_b"), [State.OK, CENSORED[1]], [State.OK, CENSORED[0]]
COMPARABLE = (
    ((STATE_A == State.OK) & (STATE_B == State.OK))
    | ((LOW > 0) & STATE_A.is_in(DOWN) & STATE_B.is_in(UP))
    | ((HIGH < 0) & STATE_A.is_in(UP) & STATE_B.is_in(DOWN))
)
"""True if both values are usable, or if a censored value can only make the difference larger."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Sentences that each report an interval or a state."""

    findings: list[str]
    """Sentences about determined values. The first is the title of a report."""
    undetermined: list[str]
    """Lines about values that are not determined, with the reason and what to do."""

    @property
    def sentences(self) -> list[str]:
        return [*self.findings, *self.undetermined]

    def __add__(self, verdict: Verdict) -> Verdict:
        """Concatenate two verdicts, this one first."""
        return Verdict([*self.findings, *verdict.findings], [*self.undetermined, *verdict.undetermined])


def verdict(store: Store, label: str) -> Verdict:
    """Write the sentences about a study version: which frequencies each model relies on, and how two models differ.

    Args:
        store: Open database.
        label: Version of the study.

    Raises:
        UsageError: If there is no such study.
    """
    rows = _read_metrics(store, label)
    if rows.is_empty():
        advice = f"run a study with filters at several cutoffs, then `bandlens analyze --db {quoted(store.path)}`"
        return Verdict([], [f"Nothing is determined yet: {advice}."])
    sentences, order = [], {name: place for place, name in enumerate(STATE_WORDS)}
    rows = rows.sort(pl.col("metric").replace_strict(order), maintain_order=True)
    for (image_set,), estimates in rows.group_by("image_set", maintain_order=True):
        values, count = (
            estimates.filter(pl.col("state").is_in([State.OK, *CENSORED])),
            estimates["checkpoint"].n_unique(),
        )
        if count > NAMED_MODELS:
            in_words = [*_ends_of_models(values, count)]
        else:  # the first sentence is the title of a report and should therefore be about all of its models
            ends = _ends_of_models(values.filter(pl.len().over("metric") > 1), count) if count > 2 else ()
            in_words = [*list(ends)[:1], *_each_model(estimates)]
        sentences += [f"{sentence}, on {image_set}." for sentence in in_words]
    models = rows["checkpoint"].unique(maintain_order=True).to_list()
    if len(models) == 2:
        # A is the model that the study file lists first, as in `compare --checkpoints A,B`.
        text = str(store.frame("SELECT toml FROM study WHERE name || '@' || version = ?", [label])["toml"].item())
        names = tomllib.loads(text).get("checkpoints", [])
        models.sort(key=lambda name: names.index(name) if name in names else len(names))
        runs = two_of(Run(store, label), Run(store, label), "checkpoint", *models)
        if between := differences_in_words(*runs, compare_cells(*runs).cells, *compare_measures(*runs)):
            sentences.insert(0, f"{between}.")
    return Verdict(sentences, list(_undetermined(rows)))


def _read_metrics(store: Store, label: str) -> pl.DataFrame:
    """Read the estimates that a verdict is based on.

    On cue-conflict images, only the cue biases are used. Accuracy under a filter is the proportion of decisions for one
    of the two cues there, so that a half-accuracy cutoff would not describe what a model needs to recognize images.
    """
    rows = store.frame(METRICS, [label, list(STATE_WORDS)])
    is_bias = pl.col("metric").is_in([cues.bias for cues in CUES])
    return rows.filter(is_bias | ~is_bias.any().over("image_set")) if len(rows) else rows


def compare_verdict(a: Run, b: Run, cells: pl.DataFrame, metrics: pl.DataFrame, conditions: pl.DataFrame) -> Verdict:
    """Write the sentences about two runs: significant differences, and what is not determined in either run.

    Args:
        a: First run.
        b: Second run.
        cells: Table of `compare_cells`.
        metrics: First table of `compare_measures`.
        conditions: Second table of `compare_measures`.
    """
    finding, lacking = differences_in_words(a, b, cells, metrics, conditions), no_metrics(a, b)
    undetermined = []
    if finding is None:
        undetermined.append(
            f"Not determined: whether {b.name} differs from {a.name}, since they have no cells that could differ; run "
            "both on the same images and conditions."
        )
    undetermined += [f"Not determined: differences in metrics, since there are {lacking}."] if lacking else []
    sets = pl.concat([metrics, conditions], how="diagonal").filter(note=OTHER_IMAGES)["image_set"].unique().sort()
    if len(sets):
        reason = f"since {OTHER_IMAGES}; run both on the same images"
        undetermined.append(f"Not determined: differences in metrics on {', '.join(sets)}, {reason}.")
    rows_a, rows_b = (
        run.renamed(_read_metrics(run.store, run.label))
        .join(metrics, on=METRIC_KEYS, how="semi")
        .with_columns(pl.lit(run.value).alias(name) for name in filter(None, [run.column]))
        .with_columns(
            # Checkpoints of one study are distinguished by their own names, and runs of one checkpoint by run names.
            checkpoint=pl.col("checkpoint") if run.column else pl.format("{} in {}", "checkpoint", pl.lit(name))
        )
        for run, name in ((a, a.name_beside(b)), (b, b.name_beside(a)))
    )
    undetermined += _undetermined(pl.concat([rows_a, rows_b]))
    return Verdict([f"{finding}."] if finding else [], undetermined)


def no_metrics(a: Run, b: Run) -> str | None:
    """Return the reason why two runs have no metrics to compare, or None if they have."""
    for run in (a, b):
        if not has_values(run.store, run.label):
            where = f"--db {quoted(run.store.path)} --study {quoted(run.label)}"
            return f"none of {run.label}; run `bandlens analyze {where}` first"
    return None


def estimate_in_words(row: Mapping[str, Any]) -> str | None:
    """Describe one estimate, with its interval if it is usable. None if there is no phrase for its state."""
    words, state = STATE_WORDS[row["metric"]], State(row["state"])
    if state not in words or row["value"] is None:
        return None
    value, low, high = (_number(row[name], MEASURES[row["metric"]].display.unit) for name in ("value", "low", "high"))
    template, interval = words[state], f" [{low}, {high}]" if low and state == State.OK else ""
    if state in CENSORED and low != high:  # the interval extends from the end of the tested range into the range
        bound = f"at most {high}" if state == State.CENSORED_BELOW else f"at least {low}"
        template, value = words[State.OK], bound
    percent = " %" if MEASURES[row["metric"]].display.unit == "share" else ""
    accuracy = "accuracy" if row["labelled"] else "agreement"
    text = template.format(accuracy=f"above-chance {accuracy}", value=f"{value}{percent}{interval}")
    return text.replace(" 1 cycles ", " 1 cycle ")


def _number(value: float | None, unit: str) -> str:
    """Format a number without decimals, or a proportion in percent. Return an empty string for None."""
    return "" if value is None else f"{100 * value if unit == 'share' else value:z.0f}"  # z formats -0 as 0


def _each_model(rows: pl.DataFrame) -> Iterator[str]:
    for (checkpoint,), estimates in rows.group_by("checkpoint", maintain_order=True):
        clauses = [words for row in estimates.rows(named=True) if (words := estimate_in_words(row))]
        if clauses:
            yield f"{checkpoint} {'; it '.join(clauses)}"


def _ends_of_models(rows: pl.DataFrame, total: int) -> Iterator[str]:
    """Yield a sentence for each metric about the models with the lowest and the highest value, censored ones included.

    Metrics for which the two intervals do not overlap come first. `total` is the number of all models, including those
    without a determined value.
    """
    apart, overlapping = [], []
    for _, models in rows.group_by("metric", maintain_order=True):
        (least, greatest), size = models.sort("value", "checkpoint")[[0, -1]].rows(named=True), len(models)
        count = f"{total:,} models" if size == total else f"the {size:,} determined of {total:,} models"
        first, last = estimate_in_words(least), estimate_in_words(greatest)
        if first == last:
            apart.append(f"{least['checkpoint'] if size == 1 else f'Each of {count}'} {first}")
            continue
        ends = f"{least['checkpoint']} {first} at one end and {greatest['checkpoint']} {last} at the other"
        if None in (least["high"], greatest["low"]) or least["high"] < greatest["low"]:
            apart.append(f"Of {count}, {ends}")
        else:
            overlapping.append(f"Of {count}, {ends}; these intervals overlap")
    yield from [*apart, *overlapping]


def _undetermined(rows: pl.DataFrame) -> Iterator[str]:
    """Yield a line for each reason why metrics are not determined, with the models concerned and what to do."""
    titles: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (metric, image_set, state, note, labelled), estimates in rows.group_by(
        "metric", "image_set", "state", "note", "labelled", maintain_order=True
    ):
        words = MEASURES[str(metric)].display.words
        remedy = {**(REMEDIES if labelled else UNLABELLED_REMEDIES), **words.remedies}.get(State(state))
        if state == State.CENSORED_BELOW and words.floor is not None and (estimates["value"] <= words.floor).all():
            remedy = "nothing lower can be tested"
        if remedy:
            models = tuple(estimates["checkpoint"].unique(maintain_order=True))
            titles.setdefault((str(image_set), str(note), remedy, models), []).append(title_of(str(metric)))
    image_sets: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (image_set, note, remedy, models), measures in titles.items():
        image_sets.setdefault((note, remedy, models, tuple(measures)), []).append(image_set)
    for (note, remedy, models, measures_named), sets in image_sets.items():
        on_sets = f" on {_listed(sets, 'image sets')}" if rows["image_set"].n_unique() > 1 else ""
        others = len(measures_named) - 1
        named = " and ".join(measures_named) if others < NAMED_MEASURES else f"{measures_named[0]} and {others} more"
        yield f"Not determined for {_listed(models, 'models')}{on_sets}: {named}, since {note}; {remedy}."


def _listed(names: Sequence[str], noun: str) -> str:
    return ", ".join(names) if len(names) <= NAMED_MODELS else f"{len(names):,} {noun}"


# Sentence about two runs


def differences_in_words(
    a: Run, b: Run, cells: pl.DataFrame, metrics: pl.DataFrame, conditions: pl.DataFrame
) -> str | None:
    """Describe in which accuracies and biases B differs from A, or else the minimum detectable differences.

    An accuracy differs if its Holm-corrected p is below 0.05. The largest difference is reported with its condition,
    and with the worst slice. A bias differs if the 95% confidence interval of its difference excludes zero and both
    values are usable, or if a censored value can only make the difference larger. Some biases can only be compared if
    another metric does not differ. For example, a difference in shape bias is not reported if the cue accuracy differs,
    because one of the models then recognizes fewer of both cues.

    If neither accuracies nor biases differ, the minimum detectable differences are reported, together with other
    metrics that differ after Bonferroni correction. Several checkpoints or image sets are counted as cases, one for
    each checkpoint on each image set.

    Args:
        a: First run.
        b: Second run.
        cells: Table of `compare_cells`.
        metrics: First table of `compare_measures`.
        conditions: Second table of `compare_measures`.

    Returns:
        The sentence, or None if nothing can be compared.
    """
    name_a, name_b = a.name_beside(b), b.name_beside(a)
    facts = read_conditions(b.store, b.label)
    unlabelled = "SELECT DISTINCT checkpoint, image_set FROM study_detail_of(?) WHERE NOT labelled"
    agrees = pl.col("image_set").is_in(b.renamed(b.store.frame(unlabelled, [b.label]))["image_set"].unique().to_list())
    several = [column for column in ("checkpoint", "image_set") if cells[column].n_unique() > 1]
    place, place_of_condition = _place(several), _place(several, of_condition=True)
    is_clean = pl.col("probe") == "clean"
    conditions = with_facts(conditions, facts).with_columns(where=place_of_condition)
    tested_cells = with_facts(cells.filter(pl.col("p").is_not_null()), facts).with_columns(
        noun=pl.when(agrees).then(pl.lit("agreement")).otherwise(pl.lit("accuracy")),
        where=pl.when(is_clean).then(place).otherwise(place_of_condition),
        differs=DIFFERS,
    )
    # The condition without noise has no position on the x-axis. Its difference, on gray images, shows how much of the
    # difference under noise is not caused by the noise, so it is reported beside it as a reference.
    keys, is_reference = ("checkpoint", "image_set", "probe"), pl.col("x").is_null()
    reference = pl.struct("setting", "difference", "low", "high").filter(is_reference).first().over(keys)
    has_reference = ~is_reference & (is_reference.sum().over(keys) == 1)
    tested_cells = tested_cells.with_columns(
        metric=pl.when(is_clean).then(pl.format(CLEAN, "noun")).otherwise("noun"),
        reference=pl.when(has_reference).then(reference),
    )
    metrics = without_replaced(metrics).with_columns(where=place)
    biases = _without_unlike(metrics.filter(COMPARABLE).with_columns(differs=(LOW > 0) | (HIGH < 0)))
    others = _beyond_chance(metrics.filter(~pl.col("metric").is_in([*WORDS])), conditions)
    cases = pl.concat([tested_cells, biases], how="diagonal")
    changes = [
        clause
        for name, words in WORDS.items()
        for change, rows in ((words.change, ~agrees), (words.agreement or words.change, agrees))
        if change
        for clause in _changes_in_words(change, words.cases, cases.filter(rows, metric=name))
    ]
    if changes := [*changes, *_worst_parts_in_words(others)]:
        subject, names = name_b, cases["checkpoint"].unique()
        if len(names) == 1 and b.column != "checkpoint":
            subject = f"{names.item()} {'on' if b.column else 'in'} {name_b}"
        return f"Compared with {name_a}, {subject} {'; it '.join(changes)}"
    if tested_cells.is_empty():
        return None
    detectable, noun = _detectable_in_words(tested_cells), " or ".join(tested_cells["noun"].unique().sort())
    by_cell = ", by cell," if " to " in detectable else ""
    could_not = f"one smaller than {detectable}{by_cell} could not have been" if detectable else "none could have been"
    unmoved = biases.filter(pl.col("metric").is_in([*WORDS]), ~pl.col("differs"))
    titles = [
        f"{title_of(str(metric))} ({_detectable_in_words(rows)})"
        for (metric,), rows in unmoved.group_by("metric", maintain_order=True)
    ]
    finding = (
        f"No difference in {noun} was found between {name_a} and {name_b} in {plural(len(tested_cells), 'cell')} "
        f"({could_not}){', nor in ' if titles else ''}{', '.join(titles)}{_others_in_words(others)}"
    )
    reach = pl.max_horizontal(-LOW, HIGH)
    row = tested_cells.sort(reach, descending=True, nulls_last=True, maintain_order=True).row(0, named=True)
    if row["low"] is None:
        return f"{finding}; there is no interval, since no two images are independent"
    uncorrected = "" if row["low"] <= 0 <= row["high"] else ", which is not corrected for the number of cells"
    unperturbed = " without perturbation" if row["probe"] == "clean" else ""
    farthest = f"{difference_in_words(row)}{unperturbed}{row['where']}"
    return f"{finding}; the interval of {noun} that reaches farthest is {farthest}{uncorrected}"


def _detectable_in_words(rows: pl.DataFrame) -> str:
    """Format the range of minimum detectable differences of the rows, `0.021 to 0.034`. Empty if none is known."""
    detectable = rows.drop_nulls("detectable").sort("detectable")
    ends = detectable[[0, -1]].rows(named=True) if len(detectable) else []
    sizes = [difference_in_words(row | {"difference": row["detectable"], "low": None}).lstrip("+") for row in ends]
    return " to ".join(dict.fromkeys(sizes))


def _without_unlike(biases: pl.DataFrame) -> pl.DataFrame:
    """Set `differs` to False for biases that require another metric to be equal if that metric differs."""
    changed_measures = set(biases.filter("differs").select("checkpoint", "image_set", "metric").rows())
    needs_alike = {measure.name: measure.display.words.needs_alike for measure in GRID_MEASURES}
    keys = ((*row[:2], needs_alike.get(row[2])) for row in biases.select("checkpoint", "image_set", "metric").rows())
    return biases.with_columns(
        differs=pl.col("differs") & pl.Series([key not in changed_measures for key in keys], dtype=pl.Boolean)
    )


def _place(several: Sequence[str], *, of_condition: bool = False) -> pl.Expr:
    """Describe the condition of a row if `of_condition`, and its checkpoint and image set if there are several."""
    words = [pl.format(" on {}", "image_set")] if "image_set" in several else []
    words = [pl.format(" for {}", "checkpoint"), *words] if "checkpoint" in several else words
    if of_condition:
        probe = pl.col("probe").replace("clean", "no perturbation")
        setting = pl.col("setting").str.strip_prefix(pl.format("{}=", "probe")).replace("", None)
        words.insert(0, pl.format(" under {}", pl.concat_str(probe, setting, separator=" ", ignore_nulls=True)))
    return pl.concat_str([pl.lit(""), *words], ignore_nulls=True)


def _beyond_chance(*frames: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that differ after Bonferroni correction over all rows, with the largest difference first.

    The correction widens the intervals. The worst slice and the largest loss are excluded, because all slices are rows
    themselves.
    """
    rows, is_choice = pl.concat(frames, how="diagonal"), pl.col("metric").str.contains(f"^({'|'.join(CHOICES)})")
    rows = rows.filter(COMPARABLE, LOW.is_not_null(), ~is_choice)
    widening = scipy.special.ndtri(1 - ALPHA / (2 * max(1, len(rows)))) / Z
    nearest = pl.when(DIFFERENCE > 0).then(LOW).otherwise(HIGH)
    rows = rows.filter(widening * (DIFFERENCE - nearest).abs() < DIFFERENCE.abs())
    return rows.sort(DIFFERENCE.abs(), descending=True, maintain_order=True)


def difference_in_words(row: Mapping[str, Any]) -> str:
    """Format the difference of a row with its interval, for example `-0.021 [-0.034, -0.008]`.

    If the metric of the row has a unit other than a proportion, the unit is appended, and numbers of at least 1 have
    one decimal. If a value is censored, the difference is a bound: `beyond +36.0` is the end of the interval that is
    closest to 0.
    """
    measure = MEASURES.get(row.get("metric", ""))
    unit = "" if measure is None or measure.display.unit == "share" else measure.display.unit
    low, high = row["low"], row["high"]
    is_large = any(abs(number) >= 1 for number in (row["difference"], low, high) if number is not None)
    digits = "+.1f" if unit and is_large else "+.3f"
    if low is not None and {row.get("state_a"), row.get("state_b")} & {*CENSORED} and not low <= 0 <= high:
        return f"beyond {min(low, high, key=abs):{digits}} {unit}".rstrip()
    interval = "" if low is None else f" [{low:{digits}}, {high:{digits}}]"
    return f"{row['difference']:{digits}}{interval} {unit}".rstrip()


def value_in_words(value: float | None, state: str | None) -> float | str | None:
    """Return a table value, or a bound such as `>78` if it is censored."""
    return value if value is None or state not in CENSORED else f"{'<>'[CENSORED.index(State(state))]}{value:g}"


def _changes_in_words(change: tuple[str, str], noun: str, cases: pl.DataFrame) -> Iterator[str]:
    """Yield a clause per direction of change, for example `relies less on low frequencies: -0.021 [-0.034, -0.008]`.

    If there are several cases, the clause reports how many differ in this direction and the largest difference. The
    direction with the larger difference comes first.
    """
    verb, complement = change
    rows = cases.filter(pl.col("differs").fill_null(False)).sort(DIFFERENCE.abs(), descending=True, maintain_order=True)
    for (loses,), side in rows.group_by(DIFFERENCE < 0, maintain_order=True):
        words = f"{verb} {'less' if loses else 'more'} {complement}"
        if len(cases) == 1:
            yield f"{words}{side['where'].item()}: {difference_in_words(side.row(0, named=True))}"
        else:
            yield f"{words} in {len(side):,} of {len(cases):,} {noun}, at most by {_largest_in_words(side)}"


def _largest_in_words(rows: pl.DataFrame) -> str:
    """Describe the first of the rows with its place and reference: `-0.29 [-0.34, -0.24] under contrast 0.1`."""
    row = rows.row(0, named=True)
    reference = row.get("reference")
    beside = f" ({reference['setting']}: {difference_in_words(reference)})" if reference else ""
    return f"{difference_in_words(row)}{row['where']}{beside}"


def _worst_parts_in_words(differences: pl.DataFrame) -> Iterator[str]:
    """Yield a clause about the slice on which B loses most, with the condition. Yield nothing without a loss."""
    for measure, template in WORST_PARTS.items():
        prefix = f"{measure}_"
        rows = differences.filter(pl.col("metric").str.starts_with(prefix), DIFFERENCE < 0)
        for name in rows["metric"].head(1):
            yield f"{template.format(part=name.removeprefix(prefix))}: {_largest_in_words(rows)}"


def _others_in_words(differences: pl.DataFrame) -> str:
    """Describe the metrics that differ, each with its number of conditions and its largest difference."""
    measures = sorted(differences.group_by("metric", maintain_order=True), key=lambda group: -len(group[1]))
    words = []
    for (metric,), rows in measures[:NAMED_MEASURES]:
        count = f" in {len(rows):,} conditions, at most by" if len(rows) > 1 else ":"
        words.append(f"{title_of(str(metric))}{count} {_largest_in_words(rows)}")
    if len(measures) > NAMED_MEASURES:
        words.append(plural(len(measures) - NAMED_MEASURES, "further measure"))
    return f"; what differs is {'; '.join(words)}" if words else ""
