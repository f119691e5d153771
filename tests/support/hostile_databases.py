"""Results databases as somebody may make them to lie or to read other files: one function a trick, drawn with a seed.

Every trick starts from a sound database. None of them runs a thing of this user's: what they would run is endless, huge
or a lie, and shows in the time or the answer of whatever opens them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import duckdb
from waiting import LIMIT_SECONDS

ENDLESS = "(WITH RECURSIVE r AS (SELECT 0::HUGEINT AS x UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r)"
HUGE = (
    "length(array_to_string(list_transform(range(9 + (0 * random())::BIGINT), lambda k: repeat('y', 1000000000)), ''))"
)
SECRET = "(SELECT max(content) FROM read_text('/etc/hostname'))"
LIE = "'nothing to see'"
Trick = Callable[[Path, Random], None]
TRICKS: dict[str, Trick] = {}
"""Name -> what it does to a sound database."""
DAMAGED = {"cut off", "bytes changed", "a log of noise"}
"""Tricks that do not follow DuckDB's format: some of these files are whole by chance where it matters."""
NEW_ROWS = {"a table whose default never ends"}
"""Tricks that leave a table without its rows, as anybody may."""


def make_hostile(name: str, sound: Path, folder: Path, seed: int = 0) -> Path:
    """A copy of a sound database in a folder, after the trick of that name."""
    path = folder / "results.duckdb"
    shutil.copyfile(sound, path)
    TRICKS[name](path, Random(f"{name}{seed}"))
    return path


def trick(name: str) -> Callable[[Trick], Trick]:
    def add(function: Trick) -> Trick:
        TRICKS[name] = function
        return function

    return add


def change(path: Path, *statements: str) -> None:
    with duckdb.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def payload(random: Random) -> str:
    return random.choice([ENDLESS, HUGE, SECRET, LIE])


def overloads(name: str, body: str) -> str:
    """A macro for calls with none to three arguments."""
    parameters = ("", "a", "a, b", "a, b, c")
    return f"CREATE MACRO {quoted(name)} {', '.join(f'({several}) AS {body}' for several in parameters)}"


def lying_listing(path: Path, hidden: str) -> str:
    """A table macro duckdb_views() that shows a view as it was before."""
    with duckdb.connect(path, read_only=True) as connection:
        query = "SELECT sql FROM duckdb_views() WHERE view_name = ?"
        ((before,),) = connection.execute(query, [hidden]).fetchall()
    shown_sql = before.replace("'", "''")
    return (
        "CREATE MACRO duckdb_views() AS TABLE SELECT * REPLACE (CASE WHEN view_name = "
        f"'{hidden}' THEN '{shown_sql}' ELSE sql END AS sql) FROM system.main.duckdb_views()"
    )


HIDE_MACROS = (
    "CREATE MACRO duckdb_functions() AS TABLE SELECT * FROM system.main.duckdb_functions() "
    "WHERE function_name NOT LIKE 'duckdb%' OR database_name = 'system'"
)


@trick("a view replaced, and hidden by two macros")
def _(path: Path, random: Random) -> None:
    view = "CREATE OR REPLACE VIEW accuracy AS SELECT * REPLACE (0.999 AS top1) FROM accuracy_of('*')"
    change(path, lying_listing(path, "accuracy"), view, HIDE_MACROS)


def _shadow(name: str) -> None:
    @trick(f"a macro {name}")
    def _(path: Path, random: Random) -> None:
        change(path, overloads(name, payload(random)))


def _listing(name: str, rows: str) -> None:
    @trick(f"a table macro {name} of {rows} rows")
    def _(path: Path, random: Random) -> None:
        body = {
            "no": "SELECT 1 AS schema_name WHERE false",
            "endless": f"SELECT {ENDLESS} AS schema_name",
            "huge": f"SELECT {HUGE} AS schema_name",
        }[rows]
        change(path, f"CREATE MACRO {name}() AS TABLE {body}")
        if random.random() < 0.5:
            change(path, f"CREATE VIEW {name} AS {body}")


for macro_name in ("string_agg", "concat_ws", "list", "if", "||", "current_database"):
    _shadow(macro_name)
_listing("duckdb_views", "endless")
_listing("duckdb_functions", "huge")
_listing("duckdb_tables", "no")


@trick("a replaced macro that never ends")
def _(path: Path, random: Random) -> None:
    name = random.choice(["version_of", "metric_of", "accuracy_of", "judgement_of"])
    change(path, f"CREATE OR REPLACE MACRO {name}(which) AS TABLE SELECT {ENDLESS} AS study")


@trick("a default of a macro's parameter")
def _(path: Path, random: Random) -> None:
    name = random.choice(["metric_of", "accuracy_of", "curve_of"])
    with duckdb.connect(path, read_only=True) as connection:
        query = "SELECT macro_definition FROM duckdb_functions() WHERE function_name = ?"
        ((body,),) = connection.execute(query, [name]).fetchall()
    change(path, f"CREATE OR REPLACE MACRO {name}(which := '*', further := {LIE}) AS TABLE {body}")


@trick("a type")
def _(path: Path, random: Random) -> None:
    change(path, f"CREATE TYPE {random.choice(['JSON', 'label', 'HUGE'])} AS ENUM ('1')")


@trick("schemas named like DuckDB's")
def _(path: Path, random: Random) -> None:
    change(
        path,
        "CREATE SCHEMA results.system",
        "CREATE SCHEMA results.main.main",
        "CREATE SCHEMA results.system.main",
        f"CREATE MACRO results.system.main.duckdb_tables() AS TABLE SELECT {payload(random)} AS x",
    )


@trick("a sequence that counts otherwise")
def _(path: Path, random: Random) -> None:
    change(path, f"CREATE SEQUENCE ids INCREMENT BY {random.choice([0 - 1, 7])} MINVALUE -10 MAXVALUE 100 START 1")


@trick("a trigger")
def _(path: Path, random: Random) -> None:
    table = random.choice(["part", "cell", "study"])
    change(path, f"CREATE TRIGGER t AFTER INSERT ON {table} FOR EACH STATEMENT DELETE FROM prediction")


@trick("an index over an expression")
def _(path: Path, random: Random) -> None:
    change(path, f"CREATE INDEX i ON {random.choice(['cell', 'study'])} ((id * 2))")


@trick("a table meta whose column is computed")
def _(path: Path, random: Random) -> None:
    size = random.choice([1_000_000_000, 4_000_000_000])
    column = f"bandlens VARCHAR GENERATED ALWAYS AS (repeat('y', {size}))"
    change(path, "DROP TABLE meta", f"CREATE TABLE meta (schema_version INTEGER, {column})")


@trick("a view meta")
def _(path: Path, random: Random) -> None:
    change(path, "DROP TABLE meta", f"CREATE VIEW meta AS SELECT 5 AS schema_version, {payload(random)} AS bandlens")


@trick("a table whose default never ends")
def _(path: Path, random: Random) -> None:
    change(path, "DROP TABLE part")
    body = random.choice(["list_sum(range(1000000000000 + {0}))", "length(repeat('y', 4000000000 + {0}))"])
    body = body.format("(0 * random())::BIGINT")  # or DuckDB would compute it now
    columns = "cell INTEGER, first INTEGER, count INTEGER, session INTEGER, seconds DOUBLE, right1 INTEGER"
    change(path, f"CREATE TABLE part ({columns}, right5 INTEGER, committed BIGINT DEFAULT ({body}))")


@trick("a table with a check")
def _(path: Path, random: Random) -> None:
    size = random.choice([1_000_000_000, 4_000_000_000])
    change(path, "DROP TABLE class_name")
    columns = "decision_space VARCHAR, class USMALLINT, name VARCHAR"
    change(path, f"CREATE TABLE class_name ({columns}, CHECK (length(repeat(name, {size})) > 0))")


@trick("a log that replaces a view")
def _(path: Path, random: Random) -> None:
    view = random.choice(["accuracy", "study_version", "metric"])
    _log(path, f"CREATE OR REPLACE VIEW {view} AS SELECT {payload(random)} AS x")


def _log(path: Path, *statements: str) -> None:
    """Leave statements in the log beside the database, as a process that is killed does."""
    code = (
        "import duckdb, os, sys\n"
        "connection = duckdb.connect(sys.argv[1])\n"
        "connection.execute(\"SET wal_autocheckpoint = '1TB'\")\n"
        "for statement in sys.argv[2:]:\n"
        "    connection.execute(statement)\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, path, *statements], check=True, timeout=LIMIT_SECONDS)


@trick("a log of noise")
def _(path: Path, random: Random) -> None:
    path.with_name(f"{path.name}.wal").write_bytes(random.randbytes(5000))


@trick("cut off")
def _(path: Path, random: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(12_288, len(content) // 2)])


@trick("bytes changed")
def _(path: Path, random: Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(2000):
        content[random.randrange(12_288, len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)
