"""Read a results database in a notebook, as Polars frames and Altair charts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any, Self

import polars as pl
import polars.selectors as cs

from ..core.arguments import checked
from ..core.errors import UnknownName, UsageError, did_you_mean
from ..core.untrusted import printable
from .charts import curves as charts
from .charts.grammar import two_a_row
from .charts.maps import correlation_map
from .charts.numbers import add_estimators, channel_chart, number_chart, octave_bars
from .comparison.verdict import verdict
from .correlations.table import correlate_study
from .correlations.table_inputs import study_table
from .database.open import open_store
from .database.study_versions import last_run, read_conditions, study_label, with_facts
from .metrics.base import MEANINGLESS, REMEDIES, State
from .metrics.families.octaves import SHARES
from .metrics.families.psychometric import THRESHOLDS
from .metrics.predictions import with_floors
from .metrics.registry import MEASURES, title_of
from .statistics.coefficients import Method


@checked
class Results:
    """A results database, opened for reading by `bandlens.open`.

    Each method opens the database, reads, and closes it again. A run can therefore write to the database between two
    calls, although a notebook keeps this object alive. A `with` block keeps the database open instead, which is faster
    for many calls.

    The argument `study` of the methods is NAME for the newest version of a study, NAME@VERSION for a particular
    version, or `*` for the newest versions of all studies.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._block = path, ExitStack()
        with self:
            pass  # Open the database once, so that an invalid file raises an error here.

    def _repr_html_(self) -> str:
        """Return the verdict on the most recent study and the clean accuracy of all models, as HTML for a notebook.

        Image sets without labels are left out: the clean predictions of a model would be compared with themselves.
        Names come from the database and are therefore escaped.
        """
        clean = self.sql(
            "SELECT version, checkpoint, image_set, n, top1, low, high, measure FROM accuracy_of('*') "
            "WHERE probe = 'clean' ORDER BY ALL"
        )
        with open_store(self._path, read_only=True) as store:
            label = None if clean.is_empty() else last_run(store)
        lines = [f"{self._path}: {label or 'no results'}", *(self.verdict(label) if label else ())]
        labelled = clean.filter(measure="accuracy").drop("measure")
        rows = labelled.with_columns(cs.string().map_elements(printable, pl.String))
        with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_rows=20, float_precision=3):
            table = "" if rows.is_empty() else rows._repr_html_()
        return "".join(f"<p>{escape(printable(line))}</p>" for line in lines) + table

    def accuracy(self, study: str = "*") -> pl.DataFrame:
        """Return the accuracy of each cell: one row per checkpoint, image set and condition (view `accuracy`).

        Args:
            study: NAME, NAME@VERSION or `*`.
        """
        return self.sql("FROM accuracy_of(?) ORDER BY ALL", [study])

    def curves(self, study: str = "*") -> pl.DataFrame:
        """Return accuracies next to the clean accuracy, and their ratio (view `curve`).

        Args:
            study: NAME, NAME@VERSION or `*`.
        """
        return self.sql("FROM curve_of(?) ORDER BY ALL", [study])

    def flips(self, study: str = "*") -> pl.DataFrame:
        """Return the images whose prediction differs from the clean prediction (view `flip`).

        Args:
            study: NAME, NAME@VERSION or `*`.
        """
        return self.sql("FROM flip_of(?) ORDER BY ALL", [study])

    def metrics(self, study: str = "*") -> pl.DataFrame:
        """Return the metrics that `bandlens analyze` computed (view `metric`).

        Args:
            study: NAME, NAME@VERSION or `*`.
        """
        return self.sql("FROM metric_of(?) ORDER BY ALL", [study])

    def conditions(self, study: str = "*") -> pl.DataFrame:
        """Return the metrics of every condition, and their differences from the clean images (view `condition_metric`).

        Args:
            study: NAME, NAME@VERSION or `*`.
        """
        return self.sql("FROM condition_metric_of(?) ORDER BY ALL", [study])

    def verdict(self, study: str | None = None) -> list[str]:
        """Summarize in sentences which frequencies the models of a study rely on, and which metrics are undetermined.

        Args:
            study: NAME or NAME@VERSION. By default the only study of the database.

        Raises:
            UnknownName: If there is no such study.
            UsageError: If the database has no study, or `study` is left out and there are several.
        """
        with open_store(self._path, read_only=True) as store:
            return verdict(store, study_label(store, study)).sentences

    def correlations(self, study: str | None = None, method: Method = "spearman") -> pl.DataFrame:
        """Correlate every bias metric with every generalization group over the models of a study.

        See docs/guide/compare.md for how to read the table.

        Args:
            study: NAME or NAME@VERSION. By default the only study of the database.
            method: "spearman" or "pearson".

        Returns:
            One row per bias metric, group and subset of models, with confidence intervals and adjusted p-values.

        Raises:
            UnknownName: If there is no such study.
            UsageError: If the study has fewer than four models, or no metrics or accuracies to correlate.
        """
        with open_store(self._path, read_only=True) as store:
            return correlate_study(study_table(store, study_label(store, study)), method)

    def sql(self, query: str, parameters: Any = (), timeout: float = 0) -> pl.DataFrame:
        """Return the rows of an SQL query in DuckDB's dialect.

        The query can read this database, but no other files, and it cannot write.

        Args:
            query: One statement. Question marks are placeholders for parameters.
            parameters: Values of the placeholders, in order. A single value does not need a list.
            timeout: Time limit in seconds. 0 means no limit.

        Raises:
            StoreError: If the query fails or exceeds the time limit.
            UsageError: If `parameters` is a dictionary.
        """
        if isinstance(parameters, Mapping):
            raise UsageError("parameters is a dictionary; give a list of values, one for each question mark")
        has_many = isinstance(parameters, Collection) and not isinstance(parameters, (str, bytes))
        with open_store(self._path, read_only=True) as store:
            return store.frame(query, parameters if has_many else [parameters], timeout)

    def plot_curves(
        self, probe: str = "lowpass", x: str = "cycles", study: str = "*", image_set: str | None = None
    ) -> Any:
        """Plot the accuracy of each model over one parameter of a probe, with 95% confidence intervals.

        Args:
            probe: Name of the probe.
            x: Column for the horizontal axis. `cycles` is the cutoff frequency of the low-pass and high-pass filters in
                cycles/image, `cutoff` their parameter. A probe without frequencies uses its own axis in place of
                `cycles`.
            study: NAME, NAME@VERSION or `*`.
            image_set: Name of the image set. Can be left out if the probe ran on only one.

        Returns:
            An Altair chart with one line per model.

        Raises:
            UnknownName: If the database has no such probe.
            UsageError: If there are no values, several studies or image sets to choose from, or several values of one
                model at the same position.
        """
        curves = self.curves(study)
        probes = curves["probe"].unique().sort()
        if probe not in probes and not probes.is_empty():
            raise UnknownName("probe", probe, probes)
        rows = self._select_one(curves.filter(pl.col("probe") == probe), probe, study, image_set)
        with open_store(self._path, read_only=True) as store:
            rows = with_facts(rows, read_conditions(store, rows["version"][0]))
            rows = with_floors(store, rows["version"][0], rows)
        column = "x" if x == "cycles" and rows["cycles"].is_null().all() else x
        rows = rows.filter(pl.col(column).is_not_null() if column in rows.columns else pl.lit(value=False))
        rows = self._select_one(rows, f"{probe} with {x}", study, image_set)
        title = str(rows["x_title"][0] or x) if x == "cycles" else x
        lines = rows.unique(["checkpoint", column, "frequency", "noise_sd", "series"])
        if lines.select("checkpoint", column).is_duplicated().any():
            raise UsageError(
                f"{probe} varies more than {title}; filter `curves` to one value of the rest, and draw that with "
                "bandlens.analysis.charts.curves.curves"
            )
        rows = rows.with_columns(own_cycles=pl.lit(self._frequencies(rows)["own_cycles"], pl.Float64))
        return charts.curves(rows, column, title, probe, octaves=column == "cycles" and not rows["cuts"].any())

    def plot_metric(self, metric: str, study: str = "*", image_set: str | None = None) -> Any:
        """Plot one metric of each model on one image set, such as the shape bias, with its 95% confidence interval.

        Args:
            metric: Name of the metric.
            study: NAME, NAME@VERSION or `*`.
            image_set: Name of the image set. Can be left out if only one has the metric.

        Returns:
            An Altair chart.

        Raises:
            UsageError: If `bandlens analyze` has not computed the metric, or there are several studies or image sets to
                choose from.
        """
        metrics = self.metrics(study)
        near = "" if metric in MEASURES else did_you_mean(metric, metrics["metric"].unique().sort())
        rows = metrics.filter(pl.col("metric") == metric)
        metrics = add_estimators(self._select_one(rows, metric, study, image_set, near=near))
        return number_chart(metrics, metric, title_of(metric))

    def plot_channels(self, study: str = "*", image_set: str | None = None) -> Any:
        """Plot the noise channel of each model on one image set: threshold noise_sd over frequency in cycles/image.

        Points are thresholds with 95% confidence intervals, and the line is the fitted channel.

        Args:
            study: NAME, NAME@VERSION or `*`.
            image_set: Name of the image set. Can be left out if only one has thresholds.

        Returns:
            An Altair chart with one panel per model.

        Raises:
            UsageError: If there are no thresholds, or there are several studies or image sets to choose from.
        """
        metrics = self._select_having(THRESHOLDS, "thresholds", study, image_set)
        models, frequencies = metrics.group_by("checkpoint", maintain_order=True), self._frequencies(metrics)
        return two_a_row(channel_chart(model_metrics, str(name), **frequencies) for (name,), model_metrics in models)

    def plot_octave_shares(self, study: str = "*", image_set: str | None = None) -> Any:
        """Plot how much each octave of frequencies contributes to the accuracy on one image set (Shapley values).

        Each model has one bar. It starts with the accuracy on flat images, which have no frequency but the mean, and
        the contributions of the octaves add up to the accuracy on the clean images. Models at chance are left out.

        Args:
            study: NAME, NAME@VERSION or `*`.
            image_set: Name of the image set. Can be left out if only one has Shapley values.

        Returns:
            An Altair chart.

        Raises:
            UsageError: If there are no Shapley values, all models are at chance, or there are several studies or image
                sets to choose from.
        """
        metrics = self._select_having(SHARES, "octave shares", study, image_set).filter(pl.col("metric").is_in(SHARES))
        version, name, state, note = metrics.select("version", "image_set", "state", "note").row(0)
        metrics = metrics.filter(~pl.col("state").is_in(MEANINGLESS))
        if metrics.is_empty():
            raise UsageError(f"{version} on {name}: no octave share means anything: {note}; {REMEDIES[State(state)]}")
        clean = self.accuracy(version).filter(probe="clean", image_set=name).select("checkpoint", "top1", "measure")
        title, size = f"{clean['measure'][0]} owed to octaves", self._frequencies(metrics)["size"]
        return octave_bars(metrics, clean, title, size)

    def _select_having(self, names: Collection[str], subject: str, study: str, image_set: str | None) -> pl.DataFrame:
        """Return the metrics of models that have at least one metric of `names`, on one image set."""
        has_names = pl.col("metric").is_in(list(names)).any().over("version", "checkpoint", "image_set")
        return self._select_one(self.metrics(study).filter(has_names), subject, study, image_set)

    def _frequencies(self, rows: pl.DataFrame) -> dict[str, Any]:
        """Return `size` and `own_cycles` of the image set of the rows.

        `size` is the side length in pixels. `own_cycles` is the native Nyquist limit in cycles/image, None if no images
        were enlarged.
        """
        query = (
            "SELECT size, own_cycles FROM study_version JOIN study_image_set AS shown ON shown.study = study_id "
            "JOIN image_set ON image_set.id = shown.image_set WHERE label = ? AND shown.name = ?"
        )
        return self.sql(query, rows.select("version", "image_set").row(0)).row(0, named=True)

    def _select_one(
        self, rows: pl.DataFrame, subject: str, study: str, image_set: str | None, near: str = ""
    ) -> pl.DataFrame:
        """Return the rows on `image_set`, which may be left out if there is only one.

        Raises:
            UsageError: If there are no rows, or rows of several studies or image sets.
        """
        if image_set is not None and not rows.is_empty():
            near = did_you_mean(image_set, rows["image_set"].unique().sort())
            rows = rows.filter(pl.col("image_set") == image_set)
        if rows.is_empty():
            words = "" if study == "*" else f" in study {study}"
            words += "" if image_set is None else f" on {image_set}"
            raise UsageError(f"{self._path} has no {subject}{words}{near}")
        for name, column in (("study", "version"), ("image_set", "image_set")):
            if len(names := rows[column].unique().sort()) > 1:
                raise UsageError(f"{self._path} has {subject} of {', '.join(names)}; name one of them with {name}=")
        return rows

    def plot_correlations(self, correlations: pl.DataFrame | str | None = None, subset: str = "total") -> Any:
        """Plot a table of correlations as a heat map.

        Args:
            correlations: Result of `correlations`, or the study to compute it for.
            subset: Subset of the models.

        Returns:
            An Altair chart.
        """
        if not isinstance(correlations, pl.DataFrame):
            correlations = self.correlations(correlations)
        return correlation_map(correlations.filter(pl.col("subset") == subset), subset)

    def __enter__(self) -> Self:
        self._block.enter_context(open_store(self._path, read_only=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._block.close()
