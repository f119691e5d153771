"""A results database in a notebook: Polars frames and Altair charts."""

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
    """A results database, for reading. Made by `bandlens.open`; a block of `with` holds it open.

    Else each call opens it anew: a notebook keeps what it has shown, and a run has to write between two calls.
    `study` is a name, for its newest version, or name@version; `*` stands for the newest version of every study.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._block = path, ExitStack()
        with self:
            pass  # a file that is no database is refused at once

    def _repr_html_(self) -> str:
        """A notebook's view: the verdict of the study that ran last, and the clean accuracy of every model.

        Without labels a model has none: it would agree with itself. Names come from the database, and are escaped.
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
        """One row a checkpoint, image set and condition: the view `accuracy`."""
        return self.sql("FROM accuracy_of(?) ORDER BY ALL", [study])

    def curves(self, study: str = "*") -> pl.DataFrame:
        """Accuracy beside the clean accuracy, and their ratio: the view `curve`."""
        return self.sql("FROM curve_of(?) ORDER BY ALL", [study])

    def flips(self, study: str = "*") -> pl.DataFrame:
        """Images whose prediction differs from the clean one: the view `flip`."""
        return self.sql("FROM flip_of(?) ORDER BY ALL", [study])

    def metrics(self, study: str = "*") -> pl.DataFrame:
        """The numbers that `bandlens analyze` computed: the view `metric`."""
        return self.sql("FROM metric_of(?) ORDER BY ALL", [study])

    def conditions(self, study: str = "*") -> pl.DataFrame:
        """Metrics of every condition, and how they differ from clean: the view `condition_metric`."""
        return self.sql("FROM condition_metric_of(?) ORDER BY ALL", [study])

    def verdict(self, study: str | None = None) -> list[str]:
        """Sentences on what the models of one study live on, and on what is not determined."""
        with open_store(self._path, read_only=True) as store:
            return verdict(store, study_label(store, study)).sentences

    def correlations(self, study: str | None = None, method: Method = "spearman") -> pl.DataFrame:
        """Every bias with every kind of generalization over the models of one study: see docs/guide/compare.md.

        Raises UsageError where the study has too few models or no metrics.
        """
        with open_store(self._path, read_only=True) as store:
            return correlate_study(study_table(store, study_label(store, study)), method)

    def sql(self, query: str, parameters: Any = (), timeout: float = 0) -> pl.DataFrame:
        """The rows of any query; it can read the database and nothing else.

        `parameters` are the values of its question marks, or the only one. It may take `timeout` seconds, by default as
        many as it needs: StoreError.
        """
        if isinstance(parameters, Mapping):
            raise UsageError("parameters is a dictionary; give a list of values, one for each question mark")
        has_many = isinstance(parameters, Collection) and not isinstance(parameters, (str, bytes))
        with open_store(self._path, read_only=True) as store:
            return store.frame(query, parameters if has_many else [parameters], timeout)

    def plot_curves(
        self, probe: str = "lowpass", x: str = "cycles", study: str = "*", image_set: str | None = None
    ) -> Any:
        """An Altair chart of accuracy over a column of one probe on one image set, a line a model, with intervals.

        `cycles` is where lowpass and highpass cut, in cycles per image, and `cutoff` is their parameter; a probe
        without frequencies is drawn over its own axis. UsageError where a model has no line, or more than one.
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
        """An Altair chart of one metric of each model on one image set, with its 95 % interval, such as a shape bias.

        UsageError where `bandlens analyze` has computed none, or there are several studies or image sets to choose of.
        """
        metrics = self.metrics(study)
        near = "" if metric in MEASURES else did_you_mean(metric, metrics["metric"].unique().sort())
        rows = metrics.filter(pl.col("metric") == metric)
        metrics = add_estimators(self._select_one(rows, metric, study, image_set, near=near))
        return number_chart(metrics, metric, title_of(metric))

    def plot_channels(self, study: str = "*", image_set: str | None = None) -> Any:
        """An Altair chart of the channel of each model on one image set: noise_sd over cycles per image.

        Points are thresholds with 95 % intervals. UsageError as `plot_metric`.
        """
        metrics = self._select_having(THRESHOLDS, "thresholds", study, image_set)
        models, frequencies = metrics.group_by("checkpoint", maintain_order=True), self._frequencies(metrics)
        return two_a_row(channel_chart(model_metrics, str(name), **frequencies) for (name,), model_metrics in models)

    def plot_octave_shares(self, study: str = "*", image_set: str | None = None) -> Any:
        """An Altair chart of what each octave of frequencies adds to the accuracy on one image set.

        A model has a bar that adds up to its accuracy, from that of its flat images. Models at chance have none.
        UsageError as `plot_metric`, and where all models are at chance.
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
        """The metrics of models that have some of `names` on one image set."""
        has_names = pl.col("metric").is_in(list(names)).any().over("version", "checkpoint", "image_set")
        return self._select_one(self.metrics(study).filter(has_names), subject, study, image_set)

    def _frequencies(self, rows: pl.DataFrame) -> dict[str, Any]:
        """`size`, pixels a side of the one image set of the rows, and `own_cycles`, None unless it was enlarged."""
        query = (
            "SELECT size, own_cycles FROM study_version JOIN study_image_set AS shown ON shown.study = study_id "
            "JOIN image_set ON image_set.id = shown.image_set WHERE label = ? AND shown.name = ?"
        )
        return self.sql(query, rows.select("version", "image_set").row(0)).row(0, named=True)

    def _select_one(
        self, rows: pl.DataFrame, subject: str, study: str, image_set: str | None, near: str = ""
    ) -> pl.DataFrame:
        """The rows on `image_set`; UsageError where there are none, or those of several studies or image sets."""
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
        """An Altair heat map of one subset of what `correlations` gives, or would give of the study that is named."""
        if not isinstance(correlations, pl.DataFrame):
            correlations = self.correlations(correlations)
        return correlation_map(correlations.filter(pl.col("subset") == subset), subset)

    def __enter__(self) -> Self:
        self._block.enter_context(open_store(self._path, read_only=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._block.close()
