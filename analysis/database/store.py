"""The results database: one DuckDB file, schema.sql, and transactions that hold a range of images each."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...core import __version__
from ...core.errors import StoreError, UsageError
from ...core.protocol import CUES
from ...core.records import (
    PREDICTION_COLUMNS,
    UNKNOWN_RANK,
    Cell,
    Condition,
    Facts,
    Failed,
    Finished,
    ImageSetInfo,
    SessionInfo,
    Variant,
    digest_of,
)
from .catalogue import TemporaryViews, identifier, tables, words_of
from .errors import NATIVE, TimeLimit, explained, explanation, readable, with_text

if TYPE_CHECKING:
    import polars as pl

    Rows = pl.DataFrame | Mapping[str, Any] | Sequence[Mapping[str, Any]]
    """Rows to store: a frame, sequences or arrays by column, or a mapping for each row."""


class Images(Protocol):
    """An image set as the database keeps it."""

    @property
    def info(self) -> ImageSetInfo: ...
    @property
    def paths(self) -> Sequence[str]: ...
    @property
    def labels(self) -> NDArray[np.int32] | None: ...
    @property
    def schemes(self) -> Mapping[str, tuple[NDArray[np.int64], NDArray[np.int32]]]: ...
    @property
    def clusters(self) -> NDArray[np.int32]: ...
    @property
    def class_names(self) -> Sequence[str] | None: ...
    @property
    def own_cycles(self) -> float | None: ...
    @property
    def attributes(self) -> Mapping[tuple[str, str], NDArray[np.int64]]: ...


ClassNames = Mapping[str, Mapping[int, str]]
"""Decision space -> class -> what it is called."""
NO_NAMES: ClassNames = {}


VALUE_KEYS = ("study", "checkpoint", "image_set", "condition")
"""Columns of measure_value that are ids."""
DONATIONS = """
FROM loaded JOIN cell USING (key) JOIN cell AS donor ON donor.key = loaded.donor
JOIN prediction ON prediction.cell = donor.id JOIN moved ON old_index = image_index AND new_index < taken
"""
"""Predictions of other cells for the first images of some cells; see `Store.reuse`."""
HIDES_NAMES = "json_execute_serialized_sql"
"""A function whose query is inside a JSON text, so that none of our views is created for the names in it."""
READING_STATEMENTS = frozenset({"SELECT", "EXPLAIN", "MULTI"})
"""The statements that a reader may give. DuckDB makes several of a PIVOT, and calls them MULTI."""


class Store:
    """An open results database. Made by `open_store`."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, views: TemporaryViews, read_only: bool = False
    ) -> None:
        self._connection = connection
        self._views = views
        self.path = path
        self._read_only = read_only
        self._session_ids: dict[tuple[Any, ...], int] = {}
        """Sessions that this store has added parts of -> session.id: a run commits thousands of times from a few."""
        self.after_commit: Callable[[], object] = lambda: None
        """Called between transactions; see `open.snapshots`."""

    def frame(self, sql: str, parameters: Sequence[Any] = (), seconds: float = 0) -> pl.DataFrame:
        """The rows of a query; StoreError where DuckDB refuses it, or Polars cannot hold its types.

        It may take so many seconds; 0 is no limit.
        """
        import polars as pl

        with explained(self.path), TimeLimit(self._connection, self.path, seconds).counted():
            try:
                return readable(self._query(sql, parameters).pl())
            except pl.exceptions.PolarsError as error:
                raise StoreError(f"{self.path}: no way to show one of the types; cast it to VARCHAR") from error

    @contextmanager
    def reader(
        self,
        sql: str,
        rows: int = 100_000,
        types: Collection[str] = NATIVE,
        seconds: float = 0,
    ) -> Iterator[pa.RecordBatchReader]:
        """The rows of a query as they come, `rows` at a time: an answer need not fit into memory.

        The database may take so many seconds for it; 0 is no limit.
        Columns of other `types`, or that are made of others, come as DuckDB writes them in text. Columns of one name,
        as a join with * has them, are called NAME, NAME_1 and so on, as in `frame`.
        """
        limit = TimeLimit(self._connection, self.path, seconds)
        with explained(self.path):
            try:
                with limit.counted():
                    reader = with_text(self._query(sql), types).to_arrow_reader(rows)
                with closing(reader):  # an answer of which rows are left keeps the next query from beginning
                    yield pa.RecordBatchReader.from_batches(reader.schema, limit.batches(reader))
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None) is not None:
                    raise  # the file that the caller writes
                raise explanation(self.path, str(error)) from error  # DuckDB may fail in the middle of an answer

    def statements(self, sql: str) -> list[str]:
        """The statements of `sql`, of which a reader's may do nothing but read; UsageError where there is none."""
        with explained(self.path):
            statements = self._connection.extract_statements(sql)
        if statements and not any(statement.query for statement in statements):
            return [sql.strip()]  # DuckDB 1 makes several of a PIVOT, all without their text
        for statement in statements:
            try:
                kind = statement.type.name
            except ValueError:  # a type that DuckDB's Python does not know
                kind = statement.query.split(maxsplit=1)[0].upper()
            if self._read_only and kind not in READING_STATEMENTS:
                raise StoreError(
                    f"{self.path} is open for reading alone, which {kind} is not; ask with SELECT, FROM, PIVOT, "
                    "DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
                )
        if not statements:
            raise UsageError("the query is empty; give one SELECT")
        return [statement.query.strip() for statement in statements]

    def _query(self, sql: str, parameters: Sequence[Any] = ()) -> duckdb.DuckDBPyRelation:
        """The answer to a query that a reader may ask, once the views that it names are made."""
        if self._read_only:
            self.statements(sql)
            if HIDES_NAMES in words_of(sql):
                raise StoreError(
                    f"{self.path}: {HIDES_NAMES} would look up names in the file itself, whose views may show "
                    "something else than bandlens stored; write the query as SQL"
                )
        self._views.make(sql)
        relation = self._connection.sql(sql, params=list(parameters))
        if relation is None:
            raise UsageError("the query is empty; give one SELECT")
        return relation

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement that may write, and give its rows."""
        with explained(self.path):
            self._views.make(sql)
            return self._connection.execute(sql, list(parameters)).fetchall()

    def checkpoint(self) -> None:
        """Write what the log beside the file holds into the file."""
        self.execute(f"CHECKPOINT {identifier(self._views.file)}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block does, all of it or, where it raises, nothing."""
        names = self._views.names
        self.execute("BEGIN")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):
                self._connection.execute("ROLLBACK")
            self._views.names = names  # temporary views that were made on the way are gone, too
            self._session_ids.clear()
            raise

    def insert(self, table: str, rows: Rows, new_by: str = "") -> None:
        """Add rows to a table: those of all, or those whose column `new_by` has a value that the table has not.

        A column of the table that the rows have not gets its default.
        """
        condition = f"WHERE {new_by} NOT IN (SELECT {new_by} FROM {table})" if new_by else ""
        self._load(f"INSERT INTO {table} BY NAME SELECT * FROM loaded {condition}", rows)

    def replace(self, table: str, rows: Rows, where: str = "true", parameters: Sequence[Any] = ()) -> None:
        """Put rows in the place of those of a table that a condition names; to it, the rows are the table `loaded`."""
        with self.transaction(), self._loaded(rows):
            self.execute(f"DELETE FROM {table} WHERE {where}", parameters)
            self.execute(f"INSERT INTO {table} BY NAME FROM loaded")

    def _load(self, statement: str, rows: Rows) -> None:
        """Run a statement that reads the rows as the table `loaded`."""
        with self._loaded(rows):
            self.execute(statement)

    @contextmanager
    def _loaded(self, rows: Rows, name: str = "loaded") -> Iterator[None]:
        """The rows are there as the table `loaded`, or by another name."""
        import polars as pl

        # Arrow's own constructors import pandas wherever it is installed, which takes longer than to store a range.
        self._connection.register(name, pl.DataFrame(rows, infer_schema_length=None).to_arrow())
        try:
            yield
        finally:
            # A transaction that failed lets nothing be unregistered, and its error is the one to tell.
            with suppress(duckdb.Error):
                self._connection.unregister(name)

    # Studies and their cells

    def progress(self, cells: Sequence[Cell]) -> dict[str, int]:
        """Cell key -> number of its images that are done; cells that are not in the database are left out."""
        rows = self.execute(
            "SELECT key, coalesce(sum(part.count), 0)::INTEGER FROM (SELECT unnest(?::VARCHAR[]) AS key) "
            "JOIN cell USING (key) LEFT JOIN part ON part.cell = cell.id GROUP BY key",
            [[cell.key for cell in cells]],
        )
        return dict(rows)

    def stale(self, study: str, cells: Sequence[Cell]) -> list[tuple[str, str, str]]:
        """(checkpoint, image set, probe) of each cell of the study's newest version that is not among `cells`."""
        rows = self.frame(
            "SELECT cell.key, named.name, shown.name, condition.probe FROM study_version "
            "JOIN study_cell ON study_cell.study = study_id JOIN cell ON cell.id = study_cell.cell "
            "JOIN study_checkpoint AS named ON named.study = study_id AND named.checkpoint = cell.checkpoint "
            "JOIN study_image_set AS shown ON shown.study = study_id AND shown.image_set = cell.image_set "
            "JOIN condition ON condition.id = cell.condition WHERE newest AND study_version.study = ? ORDER BY ALL",
            [study],
        )
        keys = {cell.key for cell in cells}
        return [(checkpoint, images, probe) for key, checkpoint, images, probe in rows.rows() if key not in keys]

    def rates(self, variants: Iterable[Variant]) -> dict[Variant, float]:
        """Variant -> images a second in the session that ran most of it; variants that never ran are left out.

        Attacks do not count: they take many times as long as a look at an image.
        """
        rows = self.frame(
            "SELECT session.onnx_sha256, session.engine, session.precision, sum(count) / sum(seconds) FROM part "
            "JOIN session ON session.id = part.session JOIN cell ON cell.id = part.cell "
            "JOIN condition ON condition.id = cell.condition WHERE seconds > 0 AND NOT attack "
            "GROUP BY session.onnx_sha256, session.engine, session.precision, session.id "
            "ORDER BY sum(count), session.id"
        )
        rates = {tuple(row[:3]): row[3] for row in rows.rows()}
        keys = {variant: (variant.sha256, variant.engine, variant.precision) for variant in variants}
        return {variant: rates[name] for variant, name in keys.items() if name in rates}

    def begin_study(
        self, name: str, toml: str, cells: Sequence[Cell], image_sets: Sequence[Images], names: ClassNames = NO_NAMES
    ) -> str:
        """Record a study and its cells, known and new; gives its label, name@version.

        A version keeps the names of its checkpoints and image sets, whatever other studies call them: the same cells
        under other names are a new version. Those `names` are kept whose decision space the cells have. UsageError
        where two checkpoints, or two image sets, have one name, or one of them has two.
        """
        check_names(cells)
        digest = digest_of(sorted(digest_of(cell.key, _names_of(cell)) for cell in cells))
        with self.transaction():
            self.add_cells(cells, image_sets, names)
            newest = self.frame(
                "SELECT id, version, digest FROM study WHERE name = ? ORDER BY version DESC LIMIT 1", [name]
            )
            if len(newest) and newest["digest"][0] == digest:
                self.execute("UPDATE study SET last_run = now(), toml = ? WHERE id = ?", [toml, newest["id"][0]])
                return f"{name}@{newest['version'][0]}"
            version = 1 + (newest["version"][0] if len(newest) else 0)
            columns = {"name": name, "version": version, "toml": toml, "digest": digest}
            self.insert("study", [columns | {"host": socket.gethostname(), "bandlens": __version__}])
            self._load(
                "INSERT INTO study_cell SELECT currval('id'), cell.id FROM loaded JOIN cell USING (key)",
                {"key": [cell.key for cell in cells]},
            )
            self._keep_names(cells)
            return f"{name}@{version}"

    def add_cells(self, cells: Sequence[Cell], image_sets: Sequence[Images], names: ClassNames = NO_NAMES) -> None:
        """Record cells, known and new, in a transaction of the caller's; no study shows them yet."""
        for images in image_sets:
            self._add_images(images)
        self._add_cells(cells)
        for space in {cell.decision_space for cell in cells} & set(names):
            classes = {"decision_space": space, "class": [*names[space]], "name": [*names[space].values()]}
            self._load("INSERT OR REPLACE INTO class_name FROM loaded", classes)

    def _keep_names(self, cells: Sequence[Cell]) -> None:
        """Keep what the study that was just added calls its checkpoints and image sets."""
        models = {cell.model.sha256: cell.model for cell in cells}.values()
        self._load(
            "INSERT INTO study_checkpoint SELECT currval('id'), checkpoint.id, loaded.name, loaded.category "
            "FROM loaded JOIN checkpoint USING (model_sha256)",
            [{"name": m.name, "category": m.category, "model_sha256": m.sha256} for m in models],
        )
        image_sets = {cell.image_set.digest: cell.image_set for cell in cells}.values()
        names = ("digest", *tables()["study_image_set"].others("study", "image_set"))
        self._load(
            "INSERT INTO study_image_set BY NAME SELECT currval('id') AS study, image_set.id AS image_set, "
            "loaded.* EXCLUDE (digest) FROM loaded JOIN image_set ON image_set.digest = loaded.digest",
            {name: [getattr(info, name) for info in image_sets] for name in names},
        )

    def _add_images(self, images: Images) -> None:
        info = images.info
        for (image_set,) in self.execute("SELECT id FROM image_set WHERE digest = ?", [info.digest]):
            self._describe_images(image_set, images)
            return
        first = next((cues.first for cues in CUES if cues.second in images.schemes), "single")
        first_scheme = {} if images.labels is None else {first: (np.arange(info.count), images.labels)}
        row = asdict(info) | {
            "own_cycles": images.own_cycles,
            "clusters": len(np.unique(images.clusters)),
            "scheme": next(iter(first_scheme), None),
        }
        self.insert("image_set", [row])
        [(image_set,)] = self.execute("SELECT currval('id')")
        index = np.arange(info.count, dtype=np.uint32)
        columns = {"image_index": index, "path": list(images.paths), "cluster": images.clusters.astype(np.uint32)}
        self.insert("image", {"image_set": image_set, **columns})
        self._describe_images(image_set, images)
        for scheme, (rows, classes) in (first_scheme | dict(images.schemes)).items():
            truth = {"scheme": scheme, "image_index": rows.astype(np.uint32), "class": classes}
            self.insert("label", {"image_set": image_set, **truth})

    def _describe_images(self, image_set: int, images: Images) -> None:
        """Keep the names of a set's classes (image_set.id), and its attributes in place of those that it had.

        A model whose names are known may have added some since; a copy without attributes leaves them as they are.
        """
        if images.class_names:
            names = {"class": range(len(images.class_names)), "name": list(images.class_names)}
            self._load("INSERT OR REPLACE INTO own_class_name FROM loaded", {"image_set": image_set, **names})
        if images.attributes:
            self.execute("DELETE FROM image_attribute WHERE image_set = ?", [image_set])
            counts = [len(rows) for rows in images.attributes.values()]
            attributes = {
                "image_index": np.concatenate([*images.attributes.values()]).astype(np.uint32),
                "name": np.repeat([name for name, _ in images.attributes], counts).tolist(),
                "value": np.repeat([value for _, value in images.attributes], counts).tolist(),
            }
            self.insert("image_attribute", {"image_set": image_set, **attributes})

    def _add_cells(self, cells: Sequence[Cell]) -> None:
        models = {cell.model.sha256: cell.model for cell in cells}.values()
        conditions = {cell.condition.digest: cell.condition for cell in cells}.values()
        names = tables()["checkpoint"].others("id", "head", "model_sha256")
        rows = [
            {name: getattr(model, name) for name in names}
            | {"head": model.head and json.dumps(asdict(model.head)), "model_sha256": model.sha256}
            for model in models
        ]
        self.insert("checkpoint", rows, new_by="model_sha256")
        rows = [
            {
                "probe": c.probe,
                "parameters": json.dumps(dict(c.parameters)),
                "cutoff": c.number("cutoff"),
                "frequency": _octave(c.number("frequency")),
                "noise_sd": c.number("noise_sd"),
                "digest": c.digest,
            }
            | asdict(c.facts)
            for c in conditions
        ]
        self.insert("condition", rows, new_by="digest")
        self._renew_facts(conditions)
        rows = [
            {
                "key": cell.key,
                "checkpoint": cell.model.sha256,
                "image_set": cell.image_set.digest,
                "condition": cell.condition.digest,
                "engine": cell.variant.engine,
                "precision": cell.variant.precision,
                "onnx_sha256": cell.variant.sha256,
                "decision_space": cell.decision_space,
                "seed": cell.seed,
            }
            for cell in cells
        ]
        self._load(
            "INSERT INTO cell BY NAME SELECT loaded.* REPLACE "
            "(checkpoint.id AS checkpoint, image_set.id AS image_set, condition.id AS condition) "
            "FROM loaded JOIN checkpoint ON checkpoint.model_sha256 = loaded.checkpoint "
            "JOIN image_set ON image_set.digest = loaded.image_set "
            "JOIN condition ON condition.digest = loaded.condition WHERE key NOT IN (SELECT key FROM cell)",
            rows,
        )

    def _renew_facts(self, conditions: Iterable[Condition]) -> None:
        """Bring known conditions up to date: the study may name another axis for a probe whose numbers are the same."""
        names = [field.name for field in fields(Facts)]
        new, old = (", ".join(f"{table}.{name}" for name in names) for table in ("loaded", "condition"))
        self._load(
            f"UPDATE condition SET {', '.join(f'{name} = loaded.{name}' for name in names)} FROM loaded "
            f"WHERE condition.digest = loaded.digest AND ({new}) IS DISTINCT FROM ({old})",
            [{"digest": c.digest} | asdict(c.facts) for c in conditions],
        )

    # Predictions

    def commit(self, outcomes: Sequence[Finished | Failed], sessions: Mapping[Variant, SessionInfo]) -> None:
        """Store the outcomes of a range of images in one transaction.

        Args:
            outcomes: of a failed cell the error is kept, and what was stored of it stays.
            sessions: what each variant ran on.
        """
        finished = [outcome for outcome in outcomes if isinstance(outcome, Finished)]
        with self.transaction():
            if finished:
                ids = self._ids_of([part.cell.key for part in finished])
                variants = {part.cell.variant for part in finished}
                session_ids = {variant: self._add_session(variant, sessions[variant]) for variant in variants}
                self.insert("part", [_part_row(part, ids, session_ids) for part in finished])
                self.insert("prediction", _prediction_table(finished, ids))
                self._mark_complete(ids.values())
            for outcome in outcomes:
                if isinstance(outcome, Failed):
                    self.execute("UPDATE cell SET error = ? WHERE key = ?", [outcome.error, outcome.cell.key])
        if outcomes:
            self.after_commit()

    def reuse(self, places: NDArray[np.int64], pairs: Sequence[tuple[str, str, int]]) -> None:
        """Store predictions of cells for the first images of others, whose image set has these images elsewhere.

        Args:
            places: (n,) ascending: where each of the first n images of the new cells' set lies in that of the old ones.
            pairs: the keys of an old cell and of a new one without predictions, and how many of the images to take.
        """
        keys, donors, counts = zip(*pairs, strict=True)
        transfers = {"donor": donors, "key": keys, "taken": counts}
        positions = {"old_index": places, "new_index": np.arange(len(places))}
        with self.transaction(), self._loaded(positions, "moved"):
            columns = ", ".join(f"prediction.{name}" for name in tables()["prediction"].others("cell", "image_index"))
            self._load(
                "INSERT INTO prediction BY NAME "
                f"SELECT cell.id AS cell, new_index AS image_index, {columns} {DONATIONS}",
                transfers,
            )
            self._load(
                "INSERT INTO part (cell, first, count, session, seconds, right1, right5) "
                "SELECT cell.id, min(new_index), count(*), part.session, part.seconds * count(*) / part.count, "
                f"sum((label_rank = 0)::INTEGER), right5_of(label_rank) {DONATIONS} "
                "JOIN part ON part.cell = donor.id AND old_index >= part.first AND old_index < part.first + part.count "
                "GROUP BY cell.id, part.first, part.count, part.session, part.seconds",
                transfers,
            )
            self._mark_complete(self._ids_of(keys).values())

    def _ids_of(self, keys: Sequence[str]) -> dict[str, int]:
        query = "SELECT key, id FROM cell SEMI JOIN (SELECT unnest(?::VARCHAR[]) AS key) USING (key)"
        return dict(self.execute(query, [list(keys)]))

    def _add_session(self, variant: Variant, info: SessionInfo) -> int:
        """The id of the session that a variant ran in; one that is not known is added, with its card."""
        environment = (info.device, info.batch, info.threads, info.versions)
        key = (variant.engine, variant.precision, *environment, variant.model.sha256, variant.sha256)
        if key not in self._session_ids:
            names, places = ", ".join(tables()["session"].key), ", ".join("?" * len(key))
            self.execute(
                f"INSERT INTO session ({names}, card) VALUES ({places}, ?) ON CONFLICT DO NOTHING", [*key, info.card]
            )
            [(self._session_ids[key],)] = self.execute(f"SELECT id FROM session WHERE ({names}) = ({places})", key)
        return self._session_ids[key]

    def _mark_complete(self, cells: Iterable[int]) -> None:
        """Mark those of the cells all of whose images are stored, and compute their intervals."""
        with self._loaded({"cell": [*cells]}):
            completed = self.execute(
                "UPDATE cell SET complete = true, error = NULL FROM image_set, (SELECT cell AS id, sum(count) AS done "
                "FROM part SEMI JOIN loaded USING (cell) GROUP BY cell) AS stored WHERE NOT complete "
                "AND stored.id = cell.id AND image_set.id = cell.image_set AND done = image_set.count RETURNING cell.id"
            )
        if completed:
            self.renew_intervals(self.cells_judged_by([cell for (cell,) in completed]))

    # Intervals

    def cells_judged_by(self, cells: Sequence[int]) -> list[int]:
        """Of complete cells (cell.id): those of them, and those without labels that are compared with one of them."""
        rows = self.execute(
            "SELECT cell FROM cell_detail WHERE list_contains($1::INTEGER[], cell) "
            "OR NOT labelled AND list_contains($1::INTEGER[], clean_cell) ORDER BY cell",
            [[*cells]],
        )
        return [cell for (cell,) in rows]

    def read_intervals(self, cells: Sequence[int]) -> Iterator[pl.DataFrame]:
        """Compute the intervals of complete cells (cell.id) from their predictions; see `compute_intervals`."""
        from .intervals import COUNTS, batches, compute_intervals

        for batch in batches(cells):
            yield compute_intervals(self.frame(COUNTS, [batch]))

    def renew_intervals(self, cells: Sequence[int] | None = None) -> None:
        """Compute and store the intervals of complete cells (cell.id), by default of all."""
        if cells is None:
            cells = [cell for (cell,) in self.execute("SELECT id FROM cell WHERE complete ORDER BY id")]
        for intervals in self.read_intervals(cells):
            self._load(
                "UPDATE cell SET ci_low = loaded.ci_low, ci_high = loaded.ci_high FROM loaded "
                "WHERE loaded.cell = cell.id AND loaded.scheme IS NULL",
                intervals,
            )
            if intervals["scheme"].count():
                self._load(
                    "INSERT OR REPLACE INTO label_interval BY NAME FROM loaded WHERE scheme IS NOT NULL", intervals
                )

    # Metrics, gates, published figures

    def write_values(self, frame: pl.DataFrame, studies: Iterable[int]) -> None:
        """Replace the values of the built-in measures of some studies (study.id).

        The columns of the frame are those of the table measure_value, with `_id` after study, checkpoint, image_set and
        condition. Others are passed over.
        """
        is_own = "(study, metric) IN (SELECT (study, name) FROM own_measure)"
        self.replace("measure_value", _value_table(frame), f"list_contains(?, study) AND NOT {is_own}", [list(studies)])

    def write_own_values(
        self, frame: pl.DataFrame, study: int, measures: pl.DataFrame, answers: Iterable[pl.DataFrame]
    ) -> None:
        """Replace the values of some measures of the user's own, their descriptions and their answers.

        `measures` has the columns name, title, unit and digest, and `answers` those of own_answer without the study;
        the frame is as for `write_values`.
        """
        import polars as pl

        study_column = pl.lit(study, pl.Int32).alias("study")
        with self.transaction():
            for table, column in (("measure_value", "metric"), ("own_answer", "metric"), ("own_measure", "name")):
                where = f"study = ? AND list_contains(?, {column})"
                self.execute(f"DELETE FROM {table} WHERE {where}", [study, measures["name"].to_list()])
            self.insert("own_measure", measures.with_columns(study_column))
            self.insert("measure_value", _value_table(frame))
            for part in answers:
                self.insert("own_answer", part.with_columns(study_column))

    def write_release(self, label: str, against: str, frame: pl.DataFrame) -> None:
        """Replace the verdicts on a version of a study against a release before it.

        Columns: those of release_verdict without study, against and decided.
        """
        import polars as pl

        [(study,)] = self.execute("SELECT study_id FROM study_version WHERE label = ?", [label])
        rows = frame.with_columns(pl.lit(study, pl.Int32).alias("study"), pl.lit(against).alias("against"))
        self.replace("release_verdict", rows, "study = ? AND against = ?", [study, against])

    def write_source(self, source: str, values: pl.DataFrame, trials: pl.DataFrame | None = None) -> None:
        """Replace what is imported of a source: the columns of published_value, and those of human_trial if any."""
        with self.transaction():
            self.execute("DELETE FROM published_value WHERE source = ?", [source])
            self.insert("published_value", values)
            if trials is not None:
                self.execute("DELETE FROM human_trial")
                self.insert("human_trial", trials)


def _value_table(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    keys = [pl.col(f"{name}_id").alias(name) for name in VALUE_KEYS]
    return frame.select(*keys, *tables()["measure_value"].others(*VALUE_KEYS))


def check_names(cells: Sequence[Cell]) -> None:
    """UsageError where two checkpoints or image sets of a study share a name, or one of them has two names."""
    models = {(cell.model.name, cell.model.sha256) for cell in cells}
    image_sets = {(cell.image_set.name, cell.image_set.digest) for cell in cells}
    for kind, entries in (("models", models), ("image sets", image_sets)):
        contents: dict[str, str] = {}
        names: dict[str, str] = {}
        for name, content in sorted(entries):
            if name in names:
                raise UsageError(f"two {kind} are named {name}; give each a name of its own, or leave one of them out")
            if content in contents:
                raise UsageError(f"{kind} {contents[content]} and {name} are the same; leave one of them out")
            names[name], contents[content] = content, name


def _names_of(cell: Cell) -> tuple[str | int | None, ...]:
    """Names of a cell's checkpoint and image set in a study, and the categories that the study puts them in."""
    model, images = cell.model, cell.image_set
    return model.name, model.category, images.name, images.benchmark, images.corruption, images.severity


def _octave(frequency: float | None) -> int | None:
    """A frequency that is an octave index; a user's probe may mean something else by it."""
    return int(frequency) if frequency is not None and frequency in range(1 << 15) else None


def _count_below(rank: int, label_ranks: NDArray[np.uint16] | None) -> int | None:
    """How many images have their label among the `rank` highest logits.

    None without labels, and where that of an image is not known: of an unknown rank it is known that it is not 0.
    """
    if label_ranks is None or (rank > 1 and (label_ranks == UNKNOWN_RANK).any()):
        return None
    return int((label_ranks < rank).sum())


def _part_row(part: Finished, cells: Mapping[str, int], sessions: Mapping[Variant, int]) -> dict[str, Any]:
    """The row of the table part, from the ids of cells and sessions."""
    return {
        "cell": cells[part.cell.key],
        "first": part.first,
        "count": len(part.predictions.predicted),
        "session": sessions[part.cell.variant],
        "seconds": part.seconds,
        "right1": _count_below(1, part.predictions.label_rank),
        "right5": _count_below(5, part.predictions.label_rank),
    }


def _prediction_table(finished: Sequence[Finished], ids: Mapping[str, int]) -> pl.DataFrame:
    """The rows of the parts, which all have labels or all have none."""
    import polars as pl

    counts = [len(part.predictions.predicted) for part in finished]
    ranges = [(part.first, part.first + count) for part, count in zip(finished, counts, strict=True)]
    columns: dict[str, Any] = {
        "cell": np.repeat(np.array([ids[part.cell.key] for part in finished], np.int32), counts),
        "image_index": np.concatenate([np.arange(*ends, dtype=np.uint32) for ends in ranges]),
    }
    for name in PREDICTION_COLUMNS:
        values = [getattr(part.predictions, name) for part in finished]
        columns[name] = None if values[0] is None else np.concatenate(values)
    return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
