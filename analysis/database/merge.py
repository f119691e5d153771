"""Results databases of several machines as one: what each of them holds, once, under new ids.

One database alone is copied as it is: the copy lacks the room of what was deleted.

A row is known by its content: a checkpoint, an image set, a condition and a cell by their digests, a study by name,
version and digest. Ids follow an order of the content, and where databases have different rows of one thing, such as
other names of the same weights, a rule takes those of one of them that asks for content alone. So the result does not
depend on the order in which databases are merged, nor on how they are grouped.

A cell's predictions are those of its first images. Of two databases with the same cell, the one with more images has
all that the other has, unless they contradict each other: then nothing is written, or what the user prefers is.

Of several, numbers that `bandlens analyze` computes are left out: they may be of fewer cells than the result has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from ...core.errors import StoreError, UsageError, quoted, some_of
from ...core.files import common_mode, open_draft, put_beside
from ...core.jobs import Progress, silent
from .catalogue import schema_tables
from .open import attached, open_store, write_empty
from .store import SESSION
from .study_versions import ORDER

IDENTITIES = {
    "checkpoint": ("model_sha256", "category, name"),
    "image_set": ("digest", "benchmark, corruption, severity, name"),
    "condition": ("digest", ORDER),
    "session": (", ".join(SESSION), "engine, precision, device"),
    "study": ("name, version", "first_run"),
    # Cells in the order of their checkpoints, as runs add them: DuckDB passes over blocks of other cells.
    "cell": ("key", "image_set, checkpoint, condition, engine, precision, seed"),
}
"""Table -> the columns that tell its rows apart, and the order of the new ids."""
GROUPS = {
    **dict.fromkeys(("image", "label", "image_attribute", "own_class_name"), "image_set"),
    **dict.fromkeys(("study_cell", "study_checkpoint", "study_image_set"), "study"),
    "class_name": "decision_space",
    "published_value": "source",
    "human_trial": "0",
    "precision_gate": "list_value(reference, candidate)",
    "release_verdict": "list_value(study::VARCHAR, against)",
}
"""Table -> the subject of its rows. All rows of one subject are those of one database: the one that decided last, where
they are decided, and else the one with the most."""
REFERENCES = {
    "cell": ("checkpoint", "image_set", "condition"),
    "part": ("session",),
    "study_cell": ("study", "cell"),
    "study_checkpoint": ("study", "checkpoint"),
    "study_image_set": ("study", "image_set"),
    "precision_gate": ("reference", "candidate"),
    "release_verdict": ("study", "cell"),
    **dict.fromkeys(("image", "label", "image_attribute", "own_class_name"), ("image_set",)),
}
"""Table -> its columns that are ids of other rows."""
MOST_DESCRIBED = 20
"""The most contradictions that are described: each asks both databases for the predictions of a cell."""

STUDIES = """
SELECT name, version, arg_max(toml, (last_run, toml)) AS toml, digest, min(first_run) AS first_run,
       max(last_run) AS last_run, arg_min(host, (first_run, host)) AS host,
       arg_min(bandlens, (first_run, bandlens)) AS bandlens
FROM all_study GROUP BY name, version, digest
"""
CLASHES = """
SELECT name, version, list(DISTINCT origin ORDER BY origin) FROM all_study
GROUP BY name, version HAVING count(DISTINCT digest) > 1 ORDER BY name, version
"""
HOLDINGS = """
SELECT cell_id.*, coalesce(n, 0) AS n, h FROM cell_id LEFT JOIN (
    SELECT origin, cell AS id, sum(count)::BIGINT AS n,
           sum(hash(first, count, seconds, right1, right5, committed)::HUGEINT) AS h
    FROM all_part GROUP BY ALL) USING (origin, id)
"""
"""The images of each cell that each database has: the first n."""
CHOICES = "SELECT DISTINCT ON (new) new, origin, id, n FROM holding ORDER BY new, n DESC, h, origin"
SIDES = """
WITH pair AS (
    SELECT row_number() OVER (ORDER BY new, holding.origin) AS pair, new, chosen.origin AS longest,
           chosen.id AS longest_id, holding.origin, holding.id, holding.n
    FROM chosen JOIN holding USING (new) WHERE holding.origin <> chosen.origin AND holding.n > 0)
SELECT pair, new, longest AS origin, longest_id AS id, n FROM pair
UNION ALL SELECT pair, new, origin, id, n FROM pair
"""
"""A database with the most images of a cell beside each other one, and the images that both of them have."""
CELLS = """
INSERT INTO merged.cell BY NAME
SELECT new_cell.* EXCLUDE (new, complete, error), new AS id, holder.complete, IF(holder.complete, NULL, errors.error)
    AS error
FROM new_cell JOIN chosen USING (new) JOIN all_cell AS holder USING (origin, id)
JOIN (SELECT key, min(error) AS error FROM all_cell GROUP BY key) AS errors ON errors.key = new_cell.key ORDER BY new
"""
CELL_IN_WORDS = """
SELECT concat_ws(', ', checkpoint.name, image_set.name, rtrim(probe || ' ' || setting))
FROM new_cell JOIN merged.checkpoint ON checkpoint.id = new_cell.checkpoint
JOIN merged.image_set ON image_set.id = new_cell.image_set JOIN merged.condition ON condition.id = new_cell.condition
WHERE new = {cell}
"""
RAN = """
SELECT string_agg(DISTINCT engine || ' ' || precision || ' on ' || device || ', batch ' || batch || ', ' || threads
                  || ' threads, ' || versions, '; ')
FROM {database}.part JOIN {database}.session ON session.id = part.session WHERE cell = {cell}
"""


@dataclass(frozen=True, slots=True)
class Merged:
    """The content of a merged database."""

    out: Path
    studies: list[str]
    cells: int
    shared: int
    """The number of cells that several databases have."""
    predictions: int
    contradicted: int
    """The number of contradictions between two databases over a cell."""
    contradictions: list[dict[str, Any]]
    """A row for each of the first of them, up to MOST_DESCRIBED: the `cell`; the number of `images` that both databases
    have, and of these with another predicted class (`other_class`); the largest difference of a `confidence`; and of
    both databases, a and b, the path (`database_a`) and the sessions that ran the cell (`ran_a`).
    """
    written: bool
    """Whether the file was written: it is not where a contradiction stays that nothing decides."""

    def raise_contradictions(self) -> Merged:
        """This, where the file was written; or StoreError, which names the first contradiction."""
        if not self.written:
            first = self.contradictions[0]
            raise StoreError(
                f"{first['database_a']} and {first['database_b']} contradict each other, {self.contradicted} times in "
                f"all, the first: {first['cell']}: {first['other_class']} of {first['images']} images have another "
                f"class and confidences differ by up to {first['confidence']:.2g}; nothing was written: name with "
                "--prefer the database that is right, or delete what is wrong"
            )
        return self


def merge(paths: Sequence[Path], out: Path, prefer: Path | None = None, progress: Progress = silent) -> Merged:
    """Write what several databases hold into the new one `out`, which gets its name when it is whole: see `app.api`.

    Raises UsageError for wrong names, and for two studies of one name and version that are not the same; StoreError
    where a database cannot be opened or disagrees with itself, or the disk is full.
    """
    for path in paths:
        with open_store(path, read_only=True):  # which says what is wrong with a file
            pass
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already and stays as it is; name another file with --out")
    if not out.parent.is_dir():
        raise UsageError(f"no folder {out.parent} for the merged database; make it first")
    preference = None if prefer is None else _place_of(prefer, paths)
    try:
        with open_draft(out) as draft:
            write_empty(draft, out)
            with attached(paths, draft, out) as connection:
                merger = _Merger(connection, paths, out)
                merged = merger.fill(preference, progress) if len(paths) > 1 else merger.copy()
                connection.execute("DETACH merged")
            if merged.written:
                draft.chmod(common_mode(paths))
                put_beside(draft, out)
    except FileExistsError:
        raise UsageError(f"{out} is there by now and stays as it is; name another file with --out") from None
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror}; nothing was written") from error
    return merged


def _place_of(prefer: Path, paths: Sequence[Path]) -> int:
    """The place of the preferred database among all, however its path is spelled; UsageError if it is none of them."""
    for place, path in enumerate(paths):
        if prefer.exists() and prefer.samefile(path):
            return place
    raise UsageError(f"--prefer {prefer} is none of the databases; name one of {', '.join(map(str, paths))}")


@dataclass(frozen=True, slots=True)
class _Merger:
    """A connection to which the databases are attached, `database0` and so on, and the new one, `merged`.

    Temporary tables `all_TABLE` have the rows of all databases, with `origin`, the number of theirs. `new_TABLE` has
    each of them once, with its new id, and `TABLE_id` the new id of each old one.
    """

    connection: duckdb.DuckDBPyConnection
    paths: Sequence[Path]
    out: Path

    def copy(self) -> Merged:
        """Fill the draft with all rows of the only database, under their ids."""
        for table in set(schema_tables()) - {"meta"}:
            self._run(f"INSERT INTO merged.{table} FROM database0.{table}")
        query = "SELECT setval('merged.id', last_value) FROM duckdb_sequences() WHERE database_name = 'database0'"
        self._run(f"{query} AND last_value > 0")
        studies = self._run("SELECT name || '@' || version FROM merged.study ORDER BY name, version")
        ((cells,),) = self._run("SELECT count(*) FROM merged.cell")
        ((predictions,),) = self._run("SELECT count(*) FROM merged.prediction")
        return Merged(self.out, [label for (label,) in studies], cells, 0, predictions, 0, [], written=True)

    def fill(self, preference: int | None, progress: Progress) -> Merged:
        """Fill the draft. Where contradictions stay undecided, it gets no cells."""
        for table in IDENTITIES:
            self._make(f"all_{table}", self._union(table))
            self._number(table)
        self._make("all_part", self._union("part"))
        for table, query in {"holding": HOLDINGS, "chosen": CHOICES, "side": SIDES}.items():
            self._make(table, query)
        pairs = self._contradicted_pairs()
        contradictions = [self._describe(pair) for pair in pairs[:MOST_DESCRIBED]]
        is_written = self._decide(pairs, preference)
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
            contradicted=len(pairs),
            contradictions=contradictions,
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
        """A query of the rows of one database, whose references are new ids."""
        tables = {column: "cell" if table == "precision_gate" else column for column in REFERENCES.get(table, ())}
        replaced = ", ".join(f"{column}_id.new AS {column}" for column in tables)
        joins = "".join(
            f" JOIN {referred}_id AS {column}_id ON ({column}_id.origin, {column}_id.id) = ({origin}, old.{column})"
            for column, referred in tables.items()
        )
        columns = f"old.* REPLACE ({replaced})" if replaced else "old.*"
        return f"SELECT {origin} AS origin, {columns} FROM {self._databases[origin]}.{table} AS old{joins}"

    def _union(self, table: str) -> str:
        """A query of the rows of all databases, whose references are new ids."""
        return " UNION ALL ".join(self._mapped(table, origin) for origin in range(len(self.paths)))

    def _number(self, table: str) -> None:
        """Give each row of a table of IDENTITIES its new id, and store it, unless its predictions decide on it."""
        identity, order = IDENTITIES[table]
        rows = f"SELECT DISTINCT ON ({identity}) * EXCLUDE (origin, id) FROM all_{table} ORDER BY ALL"
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

    # Cells that several databases have

    def _contradicted_pairs(self) -> list[int]:
        """The pairs of databases, by `side.pair`, with other predictions for the same images of a cell."""
        prints = " UNION ALL ".join(
            "SELECT pair, sum(hash(image_index, predicted, label_rank, confidence)::HUGEINT) AS print "
            f"FROM side JOIN {database}.prediction ON prediction.cell = side.id AND image_index < n "
            f"WHERE origin = {origin} GROUP BY pair"
            for origin, database in enumerate(self._databases)
        )
        query = f"SELECT pair FROM ({prints}) GROUP BY pair HAVING count(*) < 2 OR min(print) <> max(print)"
        return [pair for (pair,) in self._run(f"{query} ORDER BY pair")] if self._run("FROM side LIMIT 1") else []

    def _describe(self, pair: int) -> dict[str, Any]:
        """The row of a pair in `Merged.contradictions`."""
        sides = self._run(f"SELECT new, n, origin, id FROM side WHERE pair = {pair} ORDER BY origin")
        (cell, images, *_), _ = sides
        predictions = [
            f"(FROM {self._databases[origin]}.prediction WHERE cell = {old} AND image_index < {images})"
            for *_, origin, old in sides
        ]
        ((classes, confidence),) = self._run(
            "SELECT count(*) FILTER (a.predicted <> b.predicted), coalesce(max(abs(a.confidence - b.confidence)), 0) "
            f"FROM {predictions[0]} AS a JOIN {predictions[1]} AS b USING (image_index)"
        )
        ((name,),) = self._run(CELL_IN_WORDS.format(cell=cell))
        row = {"cell": name, "images": images, "other_class": classes, "confidence": confidence}
        for letter, (*_, origin, old) in zip("ab", sides, strict=True):
            ((sessions,),) = self._run(RAN.format(database=self._databases[origin], cell=old))
            row |= {f"database_{letter}": str(self.paths[origin]), f"ran_{letter}": sessions}
        return row

    def _decide(self, pairs: Sequence[int], preference: int | None) -> bool:
        """Take the preferred database's predictions of contradicted cells; gives whether none is left undecided."""
        self._make("contradicted", f"SELECT DISTINCT new FROM side WHERE list_contains({list(pairs)}::BIGINT[], pair)")
        if preference is not None:
            self._run(
                "UPDATE chosen SET origin = holding.origin, id = holding.id, n = holding.n FROM holding "
                f"WHERE chosen.new = holding.new AND holding.origin = {preference} AND holding.n > 0 "
                "AND chosen.new IN (FROM contradicted)"
            )
            self._run(f"DELETE FROM contradicted WHERE new IN (SELECT new FROM chosen WHERE origin = {preference})")
        return not self._run("FROM contradicted LIMIT 1")

    # The rows, once each cell has its database

    def _copy(self, progress: Progress) -> int:
        """Store cells, studies, predictions and figures; gives the number of predictions."""
        self._run(CELLS)
        for table, subject in GROUPS.items():
            self._copy_groups(table, subject)
        ((total,),) = self._run("SELECT coalesce(sum(n), 0)::BIGINT FROM chosen")
        with progress("merging", total, "predictions") as advance:
            for origin, path in enumerate(self.paths):
                advance(self._copy_predictions(origin, path))
        ids = " UNION ALL ".join(f"SELECT max(id) AS last FROM merged.{table}" for table in IDENTITIES)
        self._run(f"SELECT setval('merged.id', max(last)) FROM ({ids}) HAVING max(last) > 0")
        return int(total)

    def _copy_groups(self, table: str, subject: str) -> None:
        """Copy the rows about each subject from the database that decided last, or has the most of them."""
        names = [name for name, *_ in self._run(f"DESCRIBE merged.{table}")]
        latest = "max(decided)" if "decided" in names else "0"
        columns = ", ".join(name for name in names if name != subject)
        self._make(
            "holder",
            "SELECT DISTINCT ON (subject) subject, origin FROM ("
            f"SELECT origin, {subject} AS subject, {latest} AS latest, count(*) AS n, "
            f"sum(hash({columns})::HUGEINT) AS h FROM ({self._union(table)}) GROUP BY ALL"
            ") ORDER BY subject, latest DESC, n DESC, h, origin",
        )
        for origin in range(len(self.paths)):
            self._run(
                f"INSERT INTO merged.{table} SELECT * EXCLUDE (origin) FROM ({self._mapped(table, origin)}) "
                f"WHERE {subject} IN (SELECT subject FROM holder WHERE origin = {origin})"
            )

    def _copy_predictions(self, origin: int, path: Path) -> int:
        """Copy what the database has of the cells that are taken from it; gives the number of predictions."""
        chosen_cells = f"(SELECT id AS cell, new FROM chosen WHERE origin = {origin} AND n > 0) AS taken USING (cell)"
        self._run(
            f"INSERT INTO merged.part SELECT * EXCLUDE (origin, new) REPLACE (new AS cell) "
            f"FROM ({self._mapped('part', origin)}) JOIN {chosen_cells}"
        )
        ((count,),) = self._run(
            "INSERT INTO merged.prediction SELECT * EXCLUDE (new) REPLACE (new AS cell) "
            f"FROM {self._databases[origin]}.prediction JOIN {chosen_cells}"
        )
        ((expected,),) = self._run(f"SELECT coalesce(sum(n), 0)::BIGINT FROM chosen WHERE origin = {origin}")
        if count != expected:
            raise StoreError(
                f"{path} has {count:,} predictions of cells whose parts count {expected:,}; `bandlens verify --db "
                f"{quoted(path)}` says which"
            )
        return int(count)
