"""Report sections with measured results: accuracy over the conditions of each probe, and all metrics."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ...analysis.charts.curves import as_errors, curves, probe_panels
from ...analysis.charts.grammar import PEOPLE, SLANTED_COLUMNS, series_of, words
from ...analysis.charts.maps import band_map, kappa_map, pair_map, threshold_map
from ...analysis.charts.numbers import add_estimators, channel_chart, number_panels, octave_bars
from ...analysis.metrics.base import MEANINGLESS
from ...analysis.metrics.registry import (
    GRID_MEASURES,
    MEASURES,
    measures_in,
    panel_titles,
    title_of,
    without_replaced,
)
from ...analysis.metrics.slices import LOSS
from ...core.protocol import CUES, GROUPS
from .data import ReportData
from .page import METRIC_COLUMNS, Figure, Section, Table, key, slug

OPEN_MODELS = 6
"""Maximum number of models whose maps are drawn at once. More are drawn only when a reader expands them."""
SIDE_BY_SIDE = 40
"""Maximum number of settings that fit side by side in a chart of a probe without an axis."""
NAME_LENGTHS = (24, 38)
"""Maximum lengths of a model name in a chart on a third and on half of the page width. Names take half of a chart."""
CURVE_CAPTION = (
    "Bands, and lines through dots, are 95 % intervals, which take clusters into account. Dashed: without perturbation."
)
MANY_CAPTION = (
    "Of so many models, only the one that is picked from the list on the page has intervals and a dashed line."
)
CHANCE_CAPTIONS = {
    "accuracy": "Dotted: chance, the accuracy of a blind guess.",
    "agreement": "Dotted: chance, how often unrelated answers agree that are spread like those to clean images.",
}
HALF_CAPTION = (
    "Rings: the cut at which half of the {measure} is left, with its 95 % interval over images (the bar); "
    "a ring is missing where no tested cut leaves more or none leaves less."
)
CUES_CAPTION = (
    "Images of {images} have two cues, such as a shape and a texture: accuracy is the share that is named by the first."
)
GROUPS_CAPTION = (
    "Percent, the mean over the benchmarks of a group, with 95 % intervals over photographs. Hollow: to be read with "
    "its note (hover, or the table), such as that a benchmark is not whole. ×: a benchmark is missing, and so the mean."
)
TOP5 = "Top-5 has no number among five classes or fewer: the five highest logits hold every label."
BAND_CAPTION = (
    "Fields: {measure} under octave-band noise, on images made grey and of low contrast; noise_sd is about the "
    "standard deviation of the noise, where pixels go from 0 to 1. Points: the noise_sd at which half is lost, with "
    "95 % intervals; the curve is the channel fitted through them, and up is more sensitive. Triangles: beyond the "
    "tested noise. ○ doubtful, × no channel: the numbers of that fit mean nothing."
)
MAP_CAPTION = (
    "Thresholds: where a tile is dark, little noise in this band is enough to lose half of the accuracy; ≤ and ≥ are "
    "beyond the tested noise. Hover for 95 % intervals."
)
NUMBERS_CAPTION = (
    "Lines are 95 % intervals over images. Filled: sound. Hollow: to be read with its note (hover, or the table). "
    "×: no value, or a degenerate fit."
)
ESTIMATORS_CAPTION = (
    "Squares are the published estimator of a channel, which has no interval, and circles the psychometric one."
)
SHARES_CAPTION = (
    "Each bar adds up to the {measure} of a model, the line: what it is on flat images, which have no octave but their "
    "mean, and what each octave adds, the mean over all orders in which octaves can be added. Thin bars lead back: "
    "octaves that cost {measure}. Hover, or see the table, for 95 % intervals."
)
PAIRS_CAPTION = (
    "Interaction of two octaves: purple, above 0, where they need each other; orange, below 0, where either does what "
    "the other does. Pale: the 95 % interval holds 0."
)
AT_CHANCE = "Models that are right no more often than blind guesses are in the table alone."
MEASURES_CAPTION = (
    "The table has the difference from the number without perturbation, with an interval that is paired over the same "
    "images, and the numbers at chance, which are not drawn."
)
KAPPA_TEXT = (
    "Cohen's kappa of right and wrong: 0 for two who err independently of each other, 1 for two who err on the same "
    "images, whatever they answer there. Unequal accuracies allow less than 1, and who makes no error has no kappa. "
    "Over several conditions it is the mean of each condition's. Where people judged the stimuli, those conditions "
    "count that model-vs-human and brain-score count: no controls, and none in which people are right in less than 0.2 "
    "of the trials."
)
KAPPA_CAPTION = "A tile for every two; hover, or open the table, for intervals and the most that the accuracies allow."
SUBJECTS_CAPTION = (
    "Accuracy by condition: models with 95 % intervals, and the mean of people, with the least and the most accurate "
    "of them. Conditions are as the experiments name them."
)
CURVE_COLUMNS = ("probe", "setting", "cycles", "checkpoint", "category", "top1", "low", "high", "top5", "ratio", "n")
MEASURE_COLUMNS = (
    *("checkpoint", "probe", "setting", "cycles", "n", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "state", "note"),
)
IN_BANDS = (pl.col("cycles").is_not_null() & ~pl.col("cuts")).any().over("probe")
"""True for probes that act on frequency bands, which have a section of their own."""
CROWDED = pl.col("x").is_null().all().over("probe") & (pl.col("setting").n_unique().over("probe") > SIDE_BY_SIDE)
"""True for probes with more settings than fit in a chart. Charts show only the metrics of these probes."""


def measured_sections(results: ReportData) -> Iterator[Section]:
    """Yield the sections of accuracies and metrics, in the order of the page."""
    yield results.section("octave-shares", "Octaves that add up", [*_octaves(results)])
    yield results.section("curves", "Accuracy over frequency", filter_figures(results)[1:])
    yield results.section("critical-band", "Critical band", [*_bands(results)])
    yield results.section("other-probes", "Accuracy under other probes", [*_other_probes(results)])
    clean = results.curve.filter(pl.col("probe") == "clean", pl.col("measure") == "accuracy")
    clean = clean.filter(~pl.col("image_set").is_in(_conflicting(results))).sort("image_set", "checkpoint")
    rows = clean.select("image_set", "checkpoint", "category", "top1", "low", "high", "top5", "n")
    tables = [Table("Top-1 with its 95 % interval, and top-5", rows)] if len(rows) else []
    text = [TOP5] if (clean["chance"] >= 1 / 5).any() else []
    title = "Accuracy without perturbation"
    yield results.section("accuracy", title, [*_groups(results)], text, tables=tables)
    yield results.section("numbers", "Biases and channels", [*_numbers(results)])
    yield _measures(results)


def _by_image_set(rows: pl.DataFrame) -> Iterator[tuple[int, str, pl.DataFrame]]:
    """Yield number from 1, name and rows of each image set."""
    for number, name in enumerate(rows["image_set"].drop_nulls().unique().sort(), 1):
        yield number, name, rows.filter(image_set=name)


def _perturbed(results: ReportData) -> list[tuple[int, str, pl.DataFrame]]:
    """Return number from 1, name and sorted rows of the view curve for each image set with a perturbation."""
    sets = _by_image_set(results.curve.filter(pl.col("probe") != "clean"))
    return [(number, name, rows.drop_nulls("top1").sort("place")) for number, name, rows in sets]


def _conflicting(results: ReportData) -> list[str]:
    """Return the cue-conflict image sets, on which accuracy counts only the class of the first cue."""
    return results.metrics.filter(pl.col("metric").is_in([cues.bias for cues in CUES]))["image_set"].to_list()


def filter_figures(results: ReportData) -> list[Figure]:
    """Return figures of the filters on each image set, with half-accuracy cutoffs. The verdict shows the first one.

    Cue-conflict sets come last, because the verdict does not describe filters on them.
    """
    cue_sets = _conflicting(results)
    sets = sorted(_perturbed(results), key=lambda entry: entry[1] in cue_sets)
    return [
        _accuracy_figure(results, filters, f"filters-{number}", f"Filters on {name}")
        for number, name, rows in sets
        if len(filters := rows.filter("cuts"))
    ]


def _other_probes(results: ReportData) -> Iterator[Figure]:
    """Yield a figure for each image set with the probes that are neither filters nor act on frequency bands."""
    for number, name, rows in _perturbed(results):
        if len(other_rows := rows.filter(~IN_BANDS, ~pl.col("cuts"), ~CROWDED)):
            yield _accuracy_figure(results, other_rows, f"other-probes-{number}", f"Other probes on {name}")


def _accuracy_figure(results: ReportData, rows: pl.DataFrame, name: str, title: str) -> Figure:
    """Return a figure with the panels of some probes on one image set."""
    image_set, choice = rows["image_set"][0], as_errors(results.select_choice(rows))
    metrics = results.metrics.filter(image_set=image_set)
    cuts = {
        measure.display.cut_of: metrics.filter(metric=measure.name)
        for measure in GRID_MEASURES
        if measure.display.cut_of and measure.name in metrics["metric"]
    }
    panels, measure = probe_panels(choice, cuts=cuts), str(rows["measure"][0])
    half_caption = HALF_CAPTION.format(measure=f"above-chance {measure}")
    captions = {
        half_caption: {*cuts} & {*choice["probe"]},
        CURVE_CAPTION: True,
        MANY_CAPTION: series_of(choice) != "model",
        CHANCE_CAPTIONS[measure]: True,
        CUES_CAPTION.format(images=image_set): image_set in _conflicting(results),
    }
    caption = [text for text, applies in captions.items() if applies]
    table = rows.sort("checkpoint", "place").select(CURVE_COLUMNS)
    return Figure(name, title, caption, panels, 2, table, **key(choice))


def _bands(results: ReportData) -> Iterator[Figure]:
    """Yield the thresholds of all models on each image set, and a map and a channel for each model."""
    names = measures_in("psychometric thresholds")
    for number, image_set, rows in _perturbed(results):
        band = rows.filter(IN_BANDS)
        if band.is_empty():
            continue
        metrics = results.metrics.filter(image_set=image_set)
        thresholds = metrics.filter(pl.col("metric").is_in(names)).filter(pl.col("value").is_not_null().any())
        size, own_cycles = results.image_sets.filter(name=image_set).select("size", "own_cycles").row(0)
        panels = {}
        models = results.select_choice(band)["checkpoint"].unique().sort().to_list()
        for model in models:
            panels[model] = band_map(band.filter(checkpoint=model), model)
            if model in thresholds["checkpoint"]:
                title = f"{model}: thresholds and channel"
                panels[title] = channel_chart(metrics.filter(checkpoint=model), title, size, own_cycles)
        if len(models) > 1 and len(thresholds):
            title = "noise_sd at which half of the accuracy without noise is left"
            overview = {"thresholds": threshold_map(results.select_choice(metrics), title, size, own_cycles)}
            table, title = thresholds.select(METRIC_COLUMNS), f"Thresholds on {image_set}"
            yield Figure(f"thresholds-{number}", title, [MAP_CAPTION], overview, 1, table)
        caption, name = [BAND_CAPTION.format(measure=band["measure"][0])], f"critical-band-{number}"
        table = band.sort("checkpoint", "place").select("checkpoint", "setting", "cycles", "top1", "low", "high", "n")
        folded = len(models) > OPEN_MODELS
        yield Figure(name, f"Band noise on {image_set}", caption, panels, 2, table, folded=folded)


def _octaves(results: ReportData) -> Iterator[Figure]:
    """Yield Shapley values and interactions of octaves for each image set that was run under all sets of octaves."""
    shares, pairs = measures_in("octave_share"), measures_in("octave_pair")
    values = results.metrics.filter(pl.col("metric").is_in([*shares, *pairs])).drop_nulls("value")
    for number, name, rows in _by_image_set(values):
        size = results.image_sets.filter(name=name)["size"][0]
        clean = results.curve.filter(probe="clean", image_set=name).select("checkpoint", "top1", "measure")
        sound, measure = rows.filter(~pl.col("state").is_in(MEANINGLESS)), str(clean["measure"][0])
        choice = results.select_choice(sound)
        bars = {"shares": octave_bars(choice, clean, f"{measure} owed to octaves", size)} if len(choice) else {}
        caption = [SHARES_CAPTION.format(measure=measure), *[AT_CHANCE] * (len(sound) < len(rows))]
        table = rows.filter(pl.col("metric").is_in(shares)).select(METRIC_COLUMNS)
        yield Figure(f"octaves-{number}", f"Octave shares on {name}", caption, bars, 1, table)
        pair_values = choice.filter(pl.col("metric").is_in(pairs))
        reach = float(pair_values.select(pl.col("value").abs().max().fill_null(0)).item())
        maps = {
            str(model): pair_map(model_pairs, str(model), size, reach)
            for (model,), model_pairs in pair_values.group_by("checkpoint", maintain_order=True)
        }
        table, title = rows.filter(pl.col("metric").is_in(pairs)).select(METRIC_COLUMNS), f"Pairs of octaves on {name}"
        folded = len(maps) > OPEN_MODELS
        yield Figure(f"octave-pairs-{number}", title, [PAIRS_CAPTION], maps, 3, table, folded=folded)


def count_columns(names: pl.Series) -> int:
    """Return how many charts fit side by side with complete model names."""
    return 3 - sum(bool((names.str.len_chars() > length).any()) for length in NAME_LENGTHS)


def _groups(results: ReportData) -> Iterator[Figure]:
    """Yield the means over groups of benchmarks. The table contains the individual benchmarks."""
    means = add_estimators(results.metrics.filter(pl.col("image_set").is_null()))
    choice = results.select_choice(means)
    panels = number_panels(choice, {group: words(group) for group in GROUPS})
    if len(means):
        table = means.select(METRIC_COLUMNS)
        yield Figure(
            "generalization",
            "Generalization",
            [GROUPS_CAPTION],
            panels,
            count_columns(choice["checkpoint"]),
            table,
            **key(choice),
        )


def _numbers(results: ReportData) -> Iterator[Figure]:
    """Yield each quantity of each model on an image set, with its interval."""
    titles = panel_titles() | results.own_titles
    names = [name for name, measure in MEASURES.items() if measure.display.quantity] + [*results.own_titles]
    for number, image_set, rows in _by_image_set(results.metrics):
        choice = results.select_choice(add_estimators(without_replaced(rows.filter(pl.col("metric").is_in(names)))))
        panels, table = number_panels(choice, titles), rows.select(METRIC_COLUMNS)
        title, estimators = (
            f"Every number on {image_set}",
            choice.filter(pl.col("number").is_in([*panels]))["estimator"],
        )
        caption = [NUMBERS_CAPTION, *[ESTIMATORS_CAPTION] * estimators.is_not_null().any()]
        yield Figure(
            f"numbers-{number}", title, caption, panels, count_columns(choice["checkpoint"]), table, **key(choice)
        )


def _measures(results: ReportData) -> Section:
    """Return a figure for each metric and image set with a panel for each probe, and a table of slices and labels."""
    primary = [name for name, measure in MEASURES.items() if measure.display.primary]
    numbers = results.condition_metrics.filter(~pl.col("metric").is_in(primary), pl.col("value").is_not_null())
    # A metric can have many parts, for example one for each slice. They are listed in a table, each under the condition
    # in which it is worst.
    is_part = ~pl.col("metric").is_in([*MEASURES, *results.own_titles]) & pl.col("image_set").is_not_null()
    curve_rows = numbers.filter(pl.col("probe") != "clean", ~is_part).filter(~CROWDED)
    figures = [
        _measure_figure(results, on_set.filter(metric=metric), name, number)
        for number, name in enumerate(curve_rows["image_set"].unique().sort(nulls_last=True), 1)
        if len(on_set := curve_rows.filter(pl.col("image_set").eq_missing(pl.lit(name))))
        for metric in on_set["metric"].unique().sort()
    ]
    parts, tables = numbers.filter(is_part), []
    if len(parts):
        value = pl.when(pl.col("metric").str.starts_with(LOSS)).then(-pl.col("value")).otherwise("value")
        extremes = parts.sort(value, "place").unique(("image_set", "checkpoint", "metric"), keep="first")
        extremes = extremes.sort("image_set", "checkpoint", "metric").select("image_set", "metric", *MEASURE_COLUMNS)
        title = "Accuracy by attribute or label of the images, under the worst condition of each"
        tables.append(Table(title, extremes, folded=True))
    return results.section("measures", "Every measure under every condition", figures, tables=tables)


def _measure_figure(results: ReportData, rows: pl.DataFrame, image_set: str | None, number: int) -> Figure:
    """Return the figure of one metric on one image set, given its rows. The image set of benchmark means is None."""
    metric, domain = rows["metric"][0], (0.0, 1.0)
    title, measure = results.own_titles.get(metric, title_of(metric)), MEASURES.get(metric)
    # Proportions are drawn from 0 to 1. The axes of other metrics cover their values.
    if measure is None or measure.display.unit != "share":
        below, above = pl.min_horizontal("value", "low").min(), pl.max_horizontal("value", "high").max()
        minimum, maximum = rows.select(below.alias("minimum"), above.alias("maximum")).row(0)
        domain = min(0.0, minimum), maximum
    choice = results.select_choice(rows.filter(~pl.col("state").is_in(MEANINGLESS))).with_columns(
        top1="value", clean_top1=pl.col("value") - pl.col("difference"), measure=pl.lit(title)
    )
    panels = probe_panels(choice, domain)
    table = rows.sort("checkpoint", "place").select(MEASURE_COLUMNS)
    folded = measure is not None and measure.display.folded
    name, heading = f"measures-{number}-{slug(metric)}", f"{title} on {image_set or 'benchmarks'}"
    caption = [CURVE_CAPTION, *[MANY_CAPTION] * (series_of(choice) != "model"), MEASURES_CAPTION]
    return Figure(name, heading, caption, panels, 2, table, **key(choice), folded=folded)


# Comparisons between models, and with human observers


def consistency_section(results: ReportData) -> Section:
    """Return kappa of every two models or observers on each image set, and accuracy by condition with observers."""
    figures = [*_kappas(results), *_conditions(results)]
    table = Table("Every two subjects, by condition", results.consistency, folded=True)
    tables = [table] if len(results.consistency) else []
    return results.section("consistency", "Who errs on the same images", figures, [KAPPA_TEXT], tables=tables)


def _kappas(results: ReportData) -> Iterator[Figure]:
    """Yield a map of the mean kappa over conditions for each image set on which at least one pair has a kappa."""
    table = results.select_choice(results.select_choice(results.consistency, "first_subject"), "second_subject")
    single = pl.len() == 1
    keys = ("images", "convention", "first_subject", "second_subject", "humans")
    means = table.group_by(*keys, maintain_order=True).agg(
        pl.col("kappa").mean(),
        *(pl.when(single).then(pl.col(name).first()).alias(name) for name in ("low", "high", "most")),
        pl.col("n").sum(),
    )
    kappas = means.rename({"first_subject": "first", "second_subject": "second"})
    panels = {
        str(images): kappa_map(rows, str(images))
        for (images,), rows in kappas.group_by("images", maintain_order=True)
        if rows["kappa"].is_not_null().any()
    }
    if panels:
        subjects = pl.concat([means["first_subject"], means["second_subject"]]).unique()
        columns = min(2, count_columns(subjects)) if len(subjects) <= SLANTED_COLUMNS else 1
        yield Figure("error-consistency", "Error consistency", [KAPPA_CAPTION], panels, columns, means)


def _conditions(results: ReportData) -> Iterator[Figure]:
    """Yield accuracy over the conditions of image sets with several conditions: all observers together, and each model.

    Conditions are sorted by the first number in their names. If a name contains no number, dots are not connected.
    """
    judgements, top1 = results.judgements.filter(pl.col("condition").n_unique().over("images") > 1), pl.col("top1")
    if judgements.is_empty():
        return
    people = (
        judgements.filter("human")
        .group_by("images", "condition", maintain_order=True)
        .agg(pl.lit(PEOPLE).alias("subject"), top1.mean(), low=top1.min(), high=top1.max(), n=pl.col("n").sum())
    )
    number = pl.col("condition").str.extract(r"(\d+(?:\.\d+)?)").cast(pl.Float64)
    is_numbered = number.is_not_null().all()
    table = pl.concat([people, judgements.filter(~pl.col("human")).select(people.columns)])
    table = table.sort("images", "subject", number, "condition", nulls_last=True)
    category = pl.when(pl.col("subject") == PEOPLE).then(pl.lit(PEOPLE)).otherwise(pl.lit("models"))
    lines = results.select_choice(table, "subject").select(
        *("images", "condition", "top1", "low", "high", "n"),
        checkpoint="subject",
        category=category,
        clean_top1=pl.lit(None, pl.Float64),
        measure=pl.lit("accuracy"),
    )
    charts = {
        str(images): curves(part, "condition", "condition", str(images), ordered=part.select(is_numbered).item())
        for (images,), part in lines.group_by("images", maintain_order=True)
    }
    title = "Accuracy by condition"
    yield Figure("accuracy-by-condition", title, [SUBJECTS_CAPTION], charts, 2, table, **key(lines))
