"""Merge results databases, for example those of several machines.

The result contains each row of the input databases once, under a new id. If there is only one input, it is copied with
its ids. The copy omits the unused space that deleted rows left behind, and a database of an earlier schema version is
migrated to the current one.

Rows are matched by content: checkpoints, image sets, conditions and cells by their digests, studies by name, version
and digest. New ids follow an order defined by content. If databases assign different names to the same object, such as
the same weights, the choice also depends on content alone. The result is therefore independent of the order in which
databases are merged, and of intermediate merges.

The predictions of a cell cover its first n images. If two databases contain the same cell, the one with more images
also contains all predictions of the other, unless their predictions differ. Such a difference is a conflict. Labels,
paths and attributes of images, class names, values of a published source, and the meaning of a digest can conflict too.
If there is a conflict, nothing is written, unless the user has named the database to prefer. Whether a cell is complete
is determined again from the merged predictions.

If several databases are merged, the values that `bandlens analyze` computes are omitted, because they may be based on
fewer cells than the result contains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from ...core.errors import StoreError, UsageError, no_database, quoted, some_of
from ...core.files import open_draft, put_beside, share_access
from ...core.jobs import Progress, silent
from ...core.untrusted import words_of
from .catalogue import SCHEMA_VERSION, tables
from .integrity import check_database
from .open import attached, open_store, read_schema_version, write_empty, write_migrated, write_tables
from .study_versions import ORDER

ORDERS = {
    "checkpoint": "category, name",
    "image_set": "benchmark, corruption, severity, name",
    "condition": ORDER,
    "session": "engine, precision, device",
    "study": "first_run",
    # Order cells by checkpoint, as runs add them, so that DuckDB can skip blocks with predictions of other cells.
    "cell": "image_set, checkpoint, condition, engine, precision, seed",
}
"""Table with ids -> SQL sort order in which new ids are assigned."""
IDENTITIES = {name: ", ".join(tables()[name].key) for name in ORDERS}
"""Table with ids -> columns that identify a row."""
GROUPS = {
    "image": "image_set",
    "label": "image_set, scheme",
    "image_attribute": "image_set, name",
    "own_class_name": "image_set, class",
    **dict.fromkeys(("study_cell", "study_checkpoint", "study_image_set"), "study"),
    "class_name": "decision_space, class",
    "published_value": "source",
    "human_trial": "stimulus_set",
    "precision_gate": "reference, candidate",
    "release_verdict": "study, against",
}
"""Table -> columns of the subject of its rows.

All rows about a subject are taken from one database. For tables with a column `decided`, it is the database with the
latest decision. For other tables, databases whose rows about a subject differ are in conflict.
"""
NAMED_BY_STUDIES = {
    "checkpoint": ("name", "category", "source"),
    "image_set": ("name", "benchmark", "corruption", "severity"),
}
"""Table of `IDENTITIES` -> columns that may differ between databases.

Each study stores its own names of checkpoints and image sets (`study_checkpoint`, `study_image_set`), and the same
weights file may have been loaded from different places.
"""
STATED_ONCE = ("checkpoint", "image_set", "condition", "cell")
"""Tables of `IDENTITIES` whose other columns must be equal in all databases."""
UNFINISHED = ("complete", "error", "ci_low", "ci_high")
"""Columns of `cell` that depend on how much of the cell a database has computed."""
NAMES = {
    "image_set": "(SELECT any_value(name) FROM merged.image_set AS named WHERE id = decidable.image_set)",
    "study": "(SELECT any_value(name || '@' || version) FROM merged.study AS named WHERE id = decidable.study)",
}
"""Column of a subject -> SQL expression for a readable name."""
REFERENCES = {
    name: {column: column for column, kind in table.columns.items() if column in ORDERS and kind == "INTEGER"}
    for name, table in tables().items()
} | {
    "precision_gate": {"reference": "cell", "candidate": "cell"},
    "part": {"session": "session"},  # the cell id is mapped later, once the source of its predictions is chosen
    "human_trial": {},  # its session numbers belong to an experiment with human observers
}
"""Table -> its columns that contain ids of other rows, and the tables that they refer to."""
STUDY_RULES = {
    **dict.fromkeys((*tables()["study"].key, "digest"), "{0}"),
    "first_run": "min({0})",
    "last_run": "max({0})",
    **dict.fromkeys(("host", "bandlens"), "arg_min({0}, (first_run, {0}))"),
}
"""Column of `study` -> aggregate that combines the values if several databases contain the same version.

Other columns get the value of the most recent run.
"""
NOBODY = -1
"""Index of the preferred database if the user has not named one."""

STUDIES = "SELECT {} FROM all_study GROUP BY name, version, digest".format(
    ", ".join(
        f"{STUDY_RULES.get(name, 'arg_max({0}, (last_run, {0}))').format(f'all_study.{name}')} AS {name}"
        for name in tables()["study"].others("id")
    )
)
CLASHES = """
SELECT name, version, list(DISTINCT origin ORDER BY origin) FROM all_study
GROUP BY name, version HAVING count(DISTINCT digest) > 1 ORDER BY name, version
"""
HOLDINGS = f"""
SELECT cell_id.*, coalesce(n, 0) AS n, h FROM cell_id LEFT JOIN (
    SELECT origin, cell AS id, sum(count)::BIGINT AS n,
           sum(hash({", ".join(tables()["part"].others("cell", "session"))})::HUGEINT) AS h
    FROM all_part GROUP BY ALL) USING (origin, id)
"""
"""Query for the number of images of each cell in each database. They are always the first `n` images."""
CHOICES = "SELECT DISTINCT ON (new) new, origin, id, n FROM holding ORDER BY new, n DESC, h, origin"
SIDES = """
WITH pair AS (
    SELECT row_number() OVER (ORDER BY new, holding.origin) AS pair, new, chosen.origin AS longest,
           chosen.id AS longest_id, holding.origin, holding.id, holding.n
    FROM chosen JOIN holding USING (new) WHERE holding.origin <> chosen.origin AND holding.n > 0)
SELECT pair, new, longest AS origin, longest_id AS id, n FROM pair
UNION ALL SELECT pair, new, origin, id, n FROM pair
"""
"""Query for pairs of databases that contain the same cell.

For each cell, the database with the most images is paired with every other database. `n` is the number of images that
both contain.
"""
CELLS = f"""
INSERT INTO merged.cell BY NAME
SELECT new_cell.* EXCLUDE (new, {", ".join(UNFINISHED)}), new AS id, n = image_set.count AS complete,
       IF(n = image_set.count, NULL, errors.error) AS error
FROM new_cell JOIN chosen USING (new) JOIN merged.image_set ON image_set.id = new_cell.image_set
JOIN (SELECT key, min(error) AS error FROM all_cell GROUP BY key) AS errors ON errors.key = new_cell.key ORDER BY new
"""
CONTRADICTED_CELLS = """
SELECT concat_ws(', ', checkpoint.name, image_set.name, rtrim(probe || ' ' || setting)), min(origin), max(origin)
FROM side JOIN new_cell USING (new) JOIN merged.checkpoint ON checkpoint.id = new_cell.checkpoint
JOIN merged.image_set ON image_set.id = new_cell.image_set JOIN merged.condition ON condition.id = new_cell.condition
WHERE list_contains({pairs}::BIGINT[], pair) GROUP BY pair, 1 ORDER BY pair
"""
DIFFERENCES = """
WITH rows AS (
    SELECT origin, {subject}, count(*) AS n, sum(hash({columns})::HUGEINT) AS h FROM ({union}) GROUP BY ALL
), decidable AS (SELECT *, bool_or(origin = {preference}) OVER (PARTITION BY {subject}) AS decided FROM rows)
SELECT concat_ws(', ', {words}), origin, other, decided
FROM decidable JOIN (SELECT {subject}, origin AS other, n AS other_n, h AS other_h FROM rows) USING ({subject})
WHERE origin < other AND (n, h) IS DISTINCT FROM (other_n, other_h) ORDER BY ALL
"""
"""Query for pairs of databases whose rows about a subject differ.

`decided` is true if the preferred database has rows about the subject, which resolves the conflict.
"""


@dataclass(frozen=True, slots=True)
class Merged:
    """Result of a merge."""

    out: Path
    studies: list[str]
    cells: int
    shared: int
    """Number of cells that more than one database contains."""
    predictions: int
    contradictions: list[dict[str, str]]
    """Conflicts between two databases, one mapping each.

    `subject` is a cell or the subject of rows in a table, and `database_a` and `database_b` are the paths of the
    databases.
    """
    written: bool
    """Whether the file was written. It is not written if a conflict is unresolved."""

    def raise_contradictions(self) -> Merged:
        """Return this result if the file was written.

        Raises:
            StoreError: The file was not written. The message names the first conflict.
        """
        if not self.written:
            first = self.contradictions[0]
            raise StoreError(
                f"{first['database_a']} and {first['database_b']} contradict each other, {len(self.contradictions)} "
                f"times in all, the first: {first['subject']}; nothing was written: `bandlens compare` says how much "
                "they differ; name with --prefer the database that is right, or delete what is wrong"
            )
        return self


def merge(paths: Sequence[Path], out: Path, prefer: Path | None = None, progress: Progress = silent) -> Merged:
    """Merge results databases into a new file; the public function is in `app.api`.

    The file is written under a temporary name and renamed when it is complete and verified.

    Args:
        paths: Databases to merge, at least one.
        out: Path of the new file.
        prefer: Database whose content is used if databases are in conflict. It must be one of `paths`.
        progress: Progress display.

    Returns:
        A summary of the result. If `written` is false, unresolved conflicts prevented the merge.

    Raises:
        UsageError: There is no input, `out` exists, `prefer` is not among the inputs, or databases have different
            studies of the same name and version.
        StoreError: An input cannot be read, or the result cannot be written or fails verification.
    """
    if not paths:
        raise UsageError("there is no database to merge; name one at least")
    for path in paths:
        if not path.exists():
            raise no_database(path)
    preference = NOBODY if prefer is None else _place_of(prefer, paths)
    with new_file(out) as draft:
        if len(paths) == 1:
            return _copy(paths[0], out, draft)
        write_empty(draft, out)
        with attached(paths, draft, out) as connection:
            merged = _Merger(connection, paths, out, preference).fill(progress)
            connection.execute("DETACH merged")
        if merged.written:
            _renew_intervals(draft)
            _verify(draft, out)
            share_access(draft, paths)
            put_beside(draft, out)
    return merged


def _copy(path: Path, out: Path, draft: Path) -> Merged:
    """Copy all rows of one database with their ids, and migrate it if it has an earlier schema version."""
    version = read_schema_version(path)
    write_tables(draft, out, version)
    with attached([path], draft, out, migratable=True) as connection:
        names = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'merged'").fetchall()
        for (table,) in names:
            if table != "meta":
                connection.execute(f"INSERT INTO merged.{table} BY NAME FROM database0.{table}")
        _take_ids(connection, "SELECT last_value FROM duckdb_sequences() WHERE database_name = 'database0'")
        connection.execute("DETACH merged")
    write_migrated(draft, out, version)
    if version != SCHEMA_VERSION:
        _renew_intervals(draft)
    _verify(draft, out)
    with open_store(draft, read_only=True) as store:
        studies = store.frame("SELECT label FROM study_version JOIN study ON id = study_id ORDER BY name, version")
        cells, predictions = (store.frame(f"SELECT count(*) FROM {name}").item() for name in ("cell", "prediction"))
    share_access(draft, [path])
    put_beside(draft, out)
    return Merged(out, studies["label"].to_list(), cells, 0, predictions, [], written=True)


def _take_ids(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Advance the id sequence of the merged database to the id that the query returns.

    New rows then get unused ids.
    """
    ((last,),) = connection.execute(query).fetchall()
    connection.execute(f"SELECT max(nextval('merged.id')) FROM range({last or 0})")


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """Create a temporary file for a new database; the block must move it to its final name.

    Args:
        out: Final path of the database.

    Yields:
        Path of the temporary file, in the same folder. It is deleted if the block does not move it.

    Raises:
        UsageError: `out` exists already, or its folder does not exist.
        StoreError: The file cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already and stays as it is; name another file with --out")
    if not out.parent.is_dir():
        raise UsageError(f"no folder {out.parent} for the new database; make it first")
    try:
        with open_draft(out) as draft:
            yield draft
    except FileExistsError:
        raise UsageError(f"{out} is there by now and stays as it is; name another file with --out") from None
    except OSError as error:
        raise StoreError(f"cannot write {out}: {words_of(error)}; nothing was written") from error


def _renew_intervals(draft: Path) -> None:
    """Compute all confidence intervals again.

    They depend on the predictions and clean cells that the database contains, and a merge changes these.
    """
    with open_store(draft) as store, store.transaction():
        store.renew_intervals()


def _verify(draft: Path, out: Path) -> None:
    """Verify the merged database before it gets its final name `out`.

    Raises:
        StoreError: A consistency check failed.
    """
    with open_store(draft, read_only=True) as store:
        problems = [problem for check in check_database(store) for problem in check.problems]
    if problems:
        raise StoreError(
            f"{out} would not agree with itself, {len(problems)} times in all, the first: {problems[0]}; nothing was "
            "written: `bandlens verify` finds the database that it comes from"
        )


def _place_of(prefer: Path, paths: Sequence[Path]) -> int:
    """Return the index of the preferred database in `paths`, comparing files rather than the spelling of paths.

    Raises:
        UsageError: It is not among `paths`.
    """
    for place, path in enumerate(paths):
        if prefer.exists() and prefer.samefile(path):
            return place
    raise UsageError(f"--prefer {prefer} is none of the databases; name one of {', '.join(map(str, paths))}")


@dataclass(frozen=True, slots=True)
class _Merger:
    """State of a merge of several databases.

    They are attached to the connection as `database0` and so on, and the new database as `merged`. Three kinds of
    temporary tables are used: `all_TABLE` contains the rows of all databases, with the index of their database in the
    column `origin`. `new_TABLE` contains each distinct row once, with its new id. `TABLE_id` maps old ids to new ids.
    """

    connection: duckdb.DuckDBPyConnection
    paths: Sequence[Path]
    out: Path
    preference: int
    """Index of the database whose content resolves conflicts, or `NOBODY`."""

    def fill(self, progress: Progress) -> Merged:
        """Fill the merged database. If conflicts remain unresolved, it gets no cells."""
        for table in IDENTITIES:
            self._make(f"all_{table}", self._union(table))
            self._number(table)
        self._make("all_part", self._union("part"))
        for table, query in {"holding": HOLDINGS, "chosen": CHOICES, "side": SIDES}.items():
            self._make(table, query)
        pairs = self._contradicted_pairs()
        differences, is_decided = self._find_differences()
        is_written = self._decide(pairs) and is_decided
        studies = self._run("SELECT name || '@' || version FROM new_study ORDER BY new")
        ((cells, shared),) = self._run(
            "SELECT count(*), count(*) FILTER (n > 1) FROM (SELECT count(*) AS n FROM cell_id GROUP BY new)"
        )
        return Merged(
            out=self.out,
            studies=[label for (label,) in studies],
            cells=cells,
            shared=shared,
            predictions=self._copy(progress) if is_written else 0,
            contradictions=[*self._describe(pairs), *differences],
            written=is_written,
        )

    @property
    def _databases(self) -> list[str]:
        return [f"database{origin}" for origin in range(len(self.paths))]

    def _run(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()

    def _make(self, table: str, query: str) -> None:
        self._run(f"CREATE OR REPLACE TEMP TABLE {table} AS {query}")

    def _mapped(self, table: str, origin: int) -> str:
        """Return a query for the rows of a table in one database, with references replaced by new ids."""
        references = REFERENCES[table]
        replaced = ", ".join(f"{column}_id.new AS {column}" for column in references)
        joins = "".join(
            f" JOIN {referred}_id AS {column}_id ON ({column}_id.origin, {column}_id.id) = ({origin}, old.{column})"
            for column, referred in references.items()
        )
        columns = f"old.* REPLACE ({replaced})" if replaced else "old.*"
        return f"SELECT {origin} AS origin, {columns} FROM {self._databases[origin]}.{table} AS old{joins}"

    def _union(self, table: str) -> str:
        """Return a query for the rows of a table in all databases, with references replaced by new ids."""
        return " UNION ALL ".join(self._mapped(table, origin) for origin in range(len(self.paths)))

    def _number(self, table: str) -> None:
        """Assign a new id to each distinct row of a table of `IDENTITIES`, and insert the rows.

        Cells are inserted later, because their columns depend on the chosen predictions.
        """
        identity, order = IDENTITIES[table], ORDERS[table]
        # Of rows that differ only in names, take the preferred database's. Without one, sort by content, so that the
        # choice does not depend on the order of the databases.
        order_of_rows = f"origin <> {self.preference}, COLUMNS(* EXCLUDE (origin, id))"
        rows = f"SELECT DISTINCT ON ({identity}) * EXCLUDE (origin, id) FROM all_{table} ORDER BY {order_of_rows}"
        if table == "study":
            self._check_studies()
            rows = STUDIES
        self._make(
            f"new_{table}",
            f"SELECT row_number() OVER (ORDER BY {order}, {identity})::INTEGER AS new, * FROM ({rows})",
        )
        self._make(f"{table}_id", f"SELECT origin, id, new FROM all_{table} JOIN new_{table} USING ({identity})")
        if table != "cell":
            self._run(
                f"INSERT INTO merged.{table} BY NAME SELECT new AS id, * EXCLUDE (new) FROM new_{table} ORDER BY new"
            )

    def _check_studies(self) -> None:
        if clashes := self._run(CLASHES):
            name, version, origins = clashes[0]
            paths = [str(self.paths[origin]) for origin in origins]
            raise UsageError(
                f"{some_of(paths)} have different studies {name}@{version}; give one of them another name with: "
                f"bandlens studies rename {quoted(name)} NEW --db {quoted(paths[-1])}"
            )

    # Conflicts between databases

    def _find_differences(self) -> tuple[list[dict[str, str]], bool]:
        """Find conflicts in all rows other than predictions.

        Return them in the form of `Merged.contradictions`, and whether the preferred database resolves all of them.
        """
        subjects = {}
        for table in STATED_ONCE:
            identity = IDENTITIES[table]
            left_out = {"id", identity, *NAMED_BY_STUDIES.get(table, ()), *UNFINISHED}
            columns = ", ".join(name for name in tables()[table].columns if name not in left_out)
            subjects[table] = (identity, columns, f"FROM all_{table}")
        for table, subject in GROUPS.items():
            names = [*tables()[table].columns]
            if "decided" not in names:
                columns = ", ".join(name for name in names if name not in subject.split(", "))
                subjects[table] = (subject, columns, self._union(table))
        differences, is_decided = list[dict[str, str]](), True
        for table, (subject, columns, union) in subjects.items():
            words = ", ".join([f"'{table}'", *(NAMES.get(name, name) for name in subject.split(", "))])
            query = DIFFERENCES.format(
                subject=subject, columns=columns, union=union, words=words, preference=self.preference
            )
            for name, origin_a, origin_b, decided in self._run(query):
                differences.append(self._contradiction(name, origin_a, origin_b))
                is_decided &= decided
        return differences, is_decided

    def _contradicted_pairs(self) -> list[int]:
        """Return the pairs (`side.pair`) of databases with different predictions for the same images of a cell."""
        prints = " UNION ALL ".join(
            f"SELECT pair, sum(hash({', '.join(tables()['prediction'].others('cell'))})::HUGEINT) AS print "
            f"FROM side JOIN {database}.prediction ON prediction.cell = side.id AND image_index < n "
            f"WHERE origin = {origin} GROUP BY pair"
            for origin, database in enumerate(self._databases)
        )
        query = f"SELECT pair FROM ({prints}) GROUP BY pair HAVING count(*) < 2 OR min(print) <> max(print)"
        return [pair for (pair,) in self._run(f"{query} ORDER BY pair")] if self._run("FROM side LIMIT 1") else []

    def _describe(self, pairs: Sequence[int]) -> list[dict[str, str]]:
        """Return conflicting predictions in the form of `Merged.contradictions`."""
        query = CONTRADICTED_CELLS.format(pairs=list(pairs))
        return [self._contradiction(*row) for row in self._run(query)]

    def _contradiction(self, subject: str, origin_a: int, origin_b: int) -> dict[str, str]:
        database_a, database_b = (str(self.paths[origin]) for origin in (origin_a, origin_b))
        return {"subject": subject, "database_a": database_a, "database_b": database_b}

    def _decide(self, pairs: Sequence[int]) -> bool:
        """Use the preferred database's predictions for cells in conflict.

        Return whether this resolves all conflicts.
        """
        self._make("contradicted", f"SELECT DISTINCT new FROM side WHERE list_contains({list(pairs)}::BIGINT[], pair)")
        self._run(
            "UPDATE chosen SET origin = holding.origin, id = holding.id, n = holding.n FROM holding "
            f"WHERE chosen.new = holding.new AND holding.origin = {self.preference} AND holding.n > 0 "
            "AND chosen.new IN (FROM contradicted)"
        )
        self._run(f"DELETE FROM contradicted WHERE new IN (SELECT new FROM chosen WHERE origin = {self.preference})")
        return not self._run("FROM contradicted LIMIT 1")

    # Copying rows, after a database has been chosen for each cell

    def _copy(self, progress: Progress) -> int:
        """Insert cells, predictions and the tables of `GROUPS`. Return the number of predictions."""
        self._run(CELLS)
        for table, subject in GROUPS.items():
            self._copy_groups(table, subject)
        ((total,),) = self._run("SELECT coalesce(sum(n), 0)::BIGINT FROM chosen")
        with progress("merging", total, "predictions") as advance:
            for origin, path in enumerate(self.paths):
                advance(self._copy_predictions(origin, path))
        ids = " UNION ALL ".join(f"SELECT max(id) AS last FROM merged.{table}" for table in IDENTITIES)
        _take_ids(self.connection, f"SELECT max(last) FROM ({ids})")
        return int(total)

    def _copy_groups(self, table: str, subject: str) -> None:
        """Copy the rows about each subject from a single database.

        It is the one with the latest decision, else the preferred one. Sorting by a hash of the content makes remaining
        choices independent of the order of the databases.
        """
        names = tables()[table].columns
        latest = "max(decided)" if "decided" in names else "0"
        columns = ", ".join(name for name in names if name not in subject.split(", "))
        self._make(
            "holder",
            f"SELECT DISTINCT ON ({subject}) {subject}, origin FROM ("
            f"SELECT origin, {subject}, {latest} AS latest, sum(hash({columns})::HUGEINT) AS h "
            f"FROM ({self._union(table)}) GROUP BY ALL"
            f") ORDER BY latest DESC, origin <> {self.preference}, h, origin",
        )
        for origin in range(len(self.paths)):
            self._run(
                f"INSERT INTO merged.{table} BY NAME SELECT * EXCLUDE (origin) FROM ({self._mapped(table, origin)}) "
                f"SEMI JOIN (SELECT {subject} FROM holder WHERE origin = {origin}) USING ({subject})"
            )

    def _copy_predictions(self, origin: int, path: Path) -> int:
        """Copy the predictions of the cells for which this database was chosen. Return their number."""
        chosen_cells = f"(SELECT id AS cell, new FROM chosen WHERE origin = {origin} AND n > 0) AS taken USING (cell)"
        self._run(
            f"INSERT INTO merged.part BY NAME SELECT * EXCLUDE (origin, new) REPLACE (new AS cell) "
            f"FROM ({self._mapped('part', origin)}) JOIN {chosen_cells}"
        )
        ((count,),) = self._run(
            "INSERT INTO merged.prediction BY NAME SELECT * EXCLUDE (new) REPLACE (new AS cell) "
            f"FROM {self._databases[origin]}.prediction JOIN {chosen_cells}"
        )
        ((expected,),) = self._run(f"SELECT coalesce(sum(n), 0)::BIGINT FROM chosen WHERE origin = {origin}")
        if count != expected:
            raise StoreError(
                f"{path} has {count:,} predictions of cells whose parts count {expected:,}; `bandlens verify --db "
                f"{quoted(path)}` says which"
            )
        return int(count)
