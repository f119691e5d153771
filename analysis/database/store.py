"""Read and write the results database.

The database is a single DuckDB file with the tables of schema.sql. A run commits the predictions for one range of
images per transaction, so an interruption loses at most the range in progress.
"""

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
    """Rows to store: a data frame, a mapping of column names to sequences or arrays, or one mapping per row."""


class Images(Protocol):
    """Properties of an image set that the database stores."""

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
"""Decision space -> class index -> class name."""
NO_NAMES: ClassNames = {}


VALUE_KEYS = ("study", "checkpoint", "image_set", "condition")
"""Columns of the table `measure_value` that contain ids of other rows."""
DONATIONS = """
FROM loaded JOIN cell USING (key) JOIN cell AS donor ON donor.key = loaded.donor
JOIN prediction ON prediction.cell = donor.id JOIN moved ON old_index = image_index AND new_index < taken
"""
"""FROM clause that joins cells without predictions to the cells whose predictions they reuse; see `Store.reuse`."""
HIDES_NAMES = "json_execute_serialized_sql"
"""DuckDB function that runs a query given as JSON text.

The names in that text cannot be found in the statement, so no temporary views are created for them. The function is
therefore rejected.
"""
READING_STATEMENTS = frozenset({"SELECT", "EXPLAIN", "MULTI"})
"""Statement types allowed in a read-only store.

DuckDB splits a PIVOT into several statements and reports their type as MULTI.
"""


class Store:
    """An open results database.

    Use `open_store` to create one. Query it with `frame`, or with `reader` if the result may not fit in memory.

    Attributes:
        path: Path of the database file.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, views: TemporaryViews, read_only: bool = False
    ) -> None:
        self._connection = connection
        self._views = views
        self.path = path
        self._read_only = read_only
        self._session_ids: dict[tuple[Any, ...], int] = {}
        """Session -> `session.id`, for sessions that this store has written.

        A run commits thousands of times but has only a few sessions, so caching their ids saves queries.
        """
        self.after_commit: Callable[[], object] = lambda: None
        """Function called after each commit of predictions, between transactions; see `open.snapshots`."""

    def frame(self, sql: str, parameters: Sequence[Any] = (), seconds: float = 0) -> pl.DataFrame:
        """Return the result of a query as a data frame.

        Args:
            sql: A single SELECT statement.
            parameters: Values of the placeholders in the statement.
            seconds: Time limit in seconds; 0 for no limit.

        Returns:
            All rows of the result.

        Raises:
            StoreError: DuckDB rejected the query, the time limit was exceeded, or Polars cannot represent a column
                type.
            UsageError: `sql` contains no query.
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
        """Open a query result as a stream of record batches.

        Use it instead of `frame` for results that may not fit in memory. If several columns have the same name, as in a
        join with `*`, they are renamed to NAME, NAME_1 and so on, as in `frame`.

        Args:
            sql: A single SELECT statement.
            rows: Number of rows per batch.
            types: DuckDB types to return unchanged. Columns that contain other types are cast to text.
            seconds: Time limit in seconds; 0 for no limit. Time that the caller spends waiting does not count.

        Yields:
            A reader of the record batches. It is closed at the end of the block.

        Raises:
            StoreError: DuckDB rejected the query, failed while returning rows, or exceeded the time limit.
        """
        limit = TimeLimit(self._connection, self.path, seconds)
        with explained(self.path):
            try:
                with limit.counted():
                    reader = with_text(self._query(sql), types).to_arrow_reader(rows)
                with closing(reader):  # an unfinished result would block the next query
                    yield pa.RecordBatchReader.from_batches(reader.schema, limit.batches(reader))
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None) is not None:
                    raise  # the caller failed to write a file; the database is not at fault
                raise explanation(self.path, str(error)) from error  # DuckDB can fail after the first rows

    def statements(self, sql: str) -> list[str]:
        """Split SQL into statements, and reject statements that a read-only store does not allow.

        Args:
            sql: One or more statements.

        Returns:
            The text of each statement.

        Raises:
            StoreError: The store is read-only, and a statement does more than read.
            UsageError: `sql` contains no statement.
        """
        with explained(self.path):
            statements = self._connection.extract_statements(sql)
        if statements and not any(statement.query for statement in statements):
            return [sql.strip()]  # DuckDB 1 splits a PIVOT into statements that have no text
        for statement in statements:
            try:
                kind = statement.type.name
            except ValueError:  # a statement type that DuckDB's Python API does not define
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
        """Create the temporary views that a query names, and run it. A read-only store rejects writing statements."""
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
        """Run a statement, which may write to the database.

        Args:
            sql: One statement, or several separated by semicolons.
            parameters: Values of the placeholders in the statement.

        Returns:
            The rows of the result.
        """
        with explained(self.path):
            self._views.make(sql)
            return self._connection.execute(sql, list(parameters)).fetchall()

    def checkpoint(self) -> None:
        """Write the contents of the write-ahead log into the database file."""
        self.execute(f"CHECKPOINT {identifier(self._views.file)}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in a transaction: commit it, or roll it back if the block raises an exception.

        Transactions cannot be nested.
        """
        names = self._views.names
        self.execute("BEGIN")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):
                self._connection.execute("ROLLBACK")
            self._views.names = names  # the rollback also removed temporary views created in the block
            self._session_ids.clear()
            raise

    def insert(self, table: str, rows: Rows, new_by: str = "") -> None:
        """Insert rows into a table. Columns that are missing from the rows get their default values.

        Args:
            table: Name of the table.
            rows: Rows to insert.
            new_by: Column that identifies a row. If given, rows whose value is already in the table are skipped.
        """
        condition = f"WHERE {new_by} NOT IN (SELECT {new_by} FROM {table})" if new_by else ""
        self._load(f"INSERT INTO {table} BY NAME SELECT * FROM loaded {condition}", rows)

    def replace(self, table: str, rows: Rows, where: str = "true", parameters: Sequence[Any] = ()) -> None:
        """Delete the rows of a table that match a condition, and insert other rows, in one transaction.

        Args:
            table: Name of the table.
            rows: Rows to insert.
            where: SQL condition for the rows to delete. It can refer to the new rows as the table `loaded`.
            parameters: Values of the placeholders in the condition.
        """
        with self.transaction(), self._loaded(rows):
            self.execute(f"DELETE FROM {table} WHERE {where}", parameters)
            self.execute(f"INSERT INTO {table} BY NAME FROM loaded")

    def _load(self, statement: str, rows: Rows) -> None:
        """Run a statement that reads `rows` as the table `loaded`."""
        with self._loaded(rows):
            self.execute(statement)

    @contextmanager
    def _loaded(self, rows: Rows, name: str = "loaded") -> Iterator[None]:
        """Make `rows` available to SQL as a table for the duration of the block."""
        import polars as pl

        # Arrow's constructors import pandas if it is installed, which takes longer than storing a range of predictions.
        self._connection.register(name, pl.DataFrame(rows, infer_schema_length=None).to_arrow())
        try:
            yield
        finally:
            # DuckDB cannot unregister a table in a failed transaction. The original exception must reach the caller.
            with suppress(duckdb.Error):
                self._connection.unregister(name)

    # Studies and cells

    def progress(self, cells: Sequence[Cell]) -> dict[str, int]:
        """Return the number of images with stored predictions for each cell.

        Args:
            cells: Cells to look up.

        Returns:
            Cell key -> number of images. Cells that are not in the database are omitted.
        """
        rows = self.execute(
            "SELECT key, coalesce(sum(part.count), 0)::INTEGER FROM (SELECT unnest(?::VARCHAR[]) AS key) "
            "JOIN cell USING (key) LEFT JOIN part ON part.cell = cell.id GROUP BY key",
            [[cell.key for cell in cells]],
        )
        return dict(rows)

    def stale(self, study: str, cells: Sequence[Cell]) -> list[tuple[str, str, str]]:
        """Return the cells of the newest version of a study that are not among `cells`.

        Args:
            study: Name of the study.
            cells: Cells that the study has now.

        Returns:
            Checkpoint name, image set name and probe of each obsolete cell.
        """
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
        """Return the measured throughput of each variant, to estimate the duration of a run.

        The throughput is that of the session that computed most images of the variant. Attacks are excluded, because
        they take many times as long per image as an evaluation.

        Args:
            variants: Variants to look up.

        Returns:
            Variant -> images per second. Variants that have never been run are omitted.
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
        """Record a study and its cells, and create a new version of the study if it has changed.

        Each version stores the names of its checkpoints and image sets, independently of other studies. The same cells
        under other names therefore form a new version.

        Args:
            name: Name of the study.
            toml: Text of the study file.
            cells: All cells of the study, including those that are already stored.
            image_sets: Image sets of the cells.
            names: Class names. Only those of decision spaces that the cells have are stored.

        Returns:
            The label of the version, name@version.

        Raises:
            UsageError: Two checkpoints or two image sets have the same name, or one of them has two names.
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
        """Record cells and their image sets, without adding them to a study. Call it in a transaction.

        Args:
            cells: Cells to record. Cells that are already stored are skipped.
            image_sets: Image sets of the cells.
            names: Class names. Only those of decision spaces that the cells have are stored.
        """
        for images in image_sets:
            self._add_images(images)
        self._add_cells(cells)
        for space in {cell.decision_space for cell in cells} & set(names):
            classes = {"decision_space": space, "class": [*names[space]], "name": [*names[space].values()]}
            self._load("INSERT OR REPLACE INTO class_name FROM loaded", classes)

    def _keep_names(self, cells: Sequence[Cell]) -> None:
        """Store the names of checkpoints and image sets in the study that was just inserted."""
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
        """Store the class names of an image set, and replace its attributes.

        The image set may already be stored. Its class names may have become known since, for example from a model. If
        `images` has no attributes, stored attributes are left unchanged.
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
        """Update the descriptive columns of stored conditions.

        A new version of a probe may present the same condition differently, for example with another axis for charts.
        """
        names = [field.name for field in fields(Facts)]
        new, old = (", ".join(f"{table}.{name}" for name in names) for table in ("loaded", "condition"))
        self._load(
            f"UPDATE condition SET {', '.join(f'{name} = loaded.{name}' for name in names)} FROM loaded "
            f"WHERE condition.digest = loaded.digest AND ({new}) IS DISTINCT FROM ({old})",
            [{"digest": c.digest} | asdict(c.facts) for c in conditions],
        )

    # Predictions

    def commit(self, outcomes: Sequence[Finished | Failed], sessions: Mapping[Variant, SessionInfo]) -> None:
        """Store the outcomes for a range of images in one transaction.

        Args:
            outcomes: Predictions of finished cells, and errors of failed cells. Predictions that are already stored for
                a failed cell are left unchanged.
            sessions: Variant -> description of the session that computed it.
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
        """Copy predictions between cells whose image sets share images.

        The new image set starts with images that the old one also contains, at other indices. Their predictions need
        not be computed again.

        Args:
            places: (n,) indices in the old image set, ascending. Element i is the index of image i of the new image
                set.
            pairs: For each cell: the key of the old cell, the key of the new cell, which must have no predictions, and
                the number of images whose predictions are copied.
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
        """Return the id of a variant's session. Insert the session, with the state of its GPU, if it is new."""
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
        """Mark cells as complete if predictions for all images are stored, and compute their intervals."""
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
        """Return the cells whose confidence intervals depend on the predictions of given cells.

        These are the given cells themselves, and cells without labels whose predictions are compared with one of them.

        Args:
            cells: Ids of complete cells (`cell.id`).

        Returns:
            Ids of the dependent cells, ascending.
        """
        rows = self.execute(
            "SELECT cell FROM cell_detail WHERE list_contains($1::INTEGER[], cell) "
            "OR NOT labelled AND list_contains($1::INTEGER[], clean_cell) ORDER BY cell",
            [[*cells]],
        )
        return [cell for (cell,) in rows]

    def read_intervals(self, cells: Sequence[int]) -> Iterator[pl.DataFrame]:
        """Compute confidence intervals from stored predictions, without storing them; see `compute_intervals`.

        Args:
            cells: Ids of complete cells (`cell.id`).

        Yields:
            One data frame per batch of cells.
        """
        from .intervals import COUNTS, batches, compute_intervals

        for batch in batches(cells):
            yield compute_intervals(self.frame(COUNTS, [batch]))

    def renew_intervals(self, cells: Sequence[int] | None = None) -> None:
        """Compute and store the confidence intervals of complete cells.

        Args:
            cells: Ids of complete cells (`cell.id`); None for all complete cells.
        """
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

    # Metrics, gates and published values

    def write_values(self, frame: pl.DataFrame, studies: Iterable[int]) -> None:
        """Replace the values of all built-in metrics for some studies. Custom metrics are left unchanged.

        Args:
            frame: Rows of the table `measure_value`. The id columns study, checkpoint, image_set and condition have the
                suffix `_id`. Columns that the table does not have are ignored.
            studies: Ids of the studies (`study.id`).
        """
        is_own = "(study, metric) IN (SELECT (study, name) FROM own_measure)"
        self.replace("measure_value", _value_table(frame), f"list_contains(?, study) AND NOT {is_own}", [list(studies)])

    def write_own_values(
        self, frame: pl.DataFrame, study: int, measures: pl.DataFrame, answers: Iterable[pl.DataFrame]
    ) -> None:
        """Replace the values and descriptions of custom metrics, and the numbers that the values were computed from.

        Args:
            frame: Values, with columns as in `write_values`.
            study: Id of the study (`study.id`).
            measures: Descriptions, with the columns name, title, unit and digest.
            answers: Numbers per image or per resample, with the columns of the table `own_answer` except study.
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
        """Replace the verdicts of the release gate for one version of a study and one baseline.

        Args:
            label: Label of the candidate version, name@version.
            against: Label of the baseline version.
            frame: Verdicts, with the columns of the table `release_verdict` except study, against and decided.
        """
        import polars as pl

        [(study,)] = self.execute("SELECT study_id FROM study_version WHERE label = ?", [label])
        rows = frame.with_columns(pl.lit(study, pl.Int32).alias("study"), pl.lit(against).alias("against"))
        self.replace("release_verdict", rows, "study = ? AND against = ?", [study, against])

    def write_source(self, source: str, values: pl.DataFrame, trials: pl.DataFrame | None = None) -> None:
        """Replace everything that was imported from one source.

        Args:
            source: Name of the source.
            values: Published values, with the columns of the table `published_value`.
            trials: Trials of human observers, with the columns of the table `human_trial`. If None, stored trials are
                left unchanged.
        """
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
    """Check that names and contents of checkpoints and image sets correspond one to one within a study.

    Raises:
        UsageError: Two checkpoints or image sets have the same name, or one of them has two names.
    """
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
    """Return the names and categories that a study assigns to the checkpoint and the image set of a cell."""
    model, images = cell.model, cell.image_set
    return model.name, model.category, images.name, images.benchmark, images.corruption, images.severity


def _octave(frequency: float | None) -> int | None:
    """Return the octave index of a condition, or None. A custom probe may use `frequency` for something else."""
    return int(frequency) if frequency is not None and frequency in range(1 << 15) else None


def _count_below(rank: int, label_ranks: NDArray[np.uint16] | None) -> int | None:
    """Return the number of images whose label is among the `rank` highest logits.

    Return None if there are no labels, or if `rank` exceeds 1 and the rank of an image is unknown. An unknown rank
    still counts as incorrect for rank 1.
    """
    if label_ranks is None or (rank > 1 and (label_ranks == UNKNOWN_RANK).any()):
        return None
    return int((label_ranks < rank).sum())


def _part_row(part: Finished, cells: Mapping[str, int], sessions: Mapping[Variant, int]) -> dict[str, Any]:
    """Return the row of the table `part` for a finished range, given the ids of cells and sessions."""
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
    """Return the rows of the table `prediction`. Either all parts have labels or none has."""
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
