"""Results databases as somebody may make them to lie or to read other files: tricks whose details a seed draws.

Every trick starts from a sound database. None of them runs a thing of this user's: what they would run is endless, huge
or a lie, and shows in the time or the answer of whatever opens them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import duckdb
from waiting import LIMIT_SECONDS

ZERO = "(0 * random())::BIGINT"
"""A number that DuckDB does not compute beforehand."""
ENDLESS = "(WITH RECURSIVE r AS (SELECT 0::HUGEINT AS x UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r)"
HUGE = f"length(array_to_string(list_transform(range(9 + {ZERO}), lambda k: repeat('y', 1000000000)), ''))"
SECRET = "(SELECT max(content) FROM read_text('/etc/hostname'))"
LIE = "'nothing to see'"
CHOICES = {
    "payload": (ENDLESS, HUGE, SECRET, LIE),
    "size": ("1000000000", "4000000000"),
    "type": ("JSON", "label", "HUGE"),
    "step": ("-1", "7"),
    "table": ("part", "cell", "study"),
    "table_with_ids": ("cell", "study"),
    "view": ("accuracy", "study_version", "metric"),
    "macro": ("version_of", "metric_of", "accuracy_of", "judgement_of"),
    "endless_rows": (f"list_sum(range(1000000000000 + {ZERO}))", f"length(repeat('y', 4000000000 + {ZERO}))"),
}
"""Word -> what may stand for `$word` in a statement."""
STATEMENTS: dict[str, Sequence[str]] = {
    "a replaced macro that never ends": [f"CREATE OR REPLACE MACRO $macro(which) AS TABLE SELECT {ENDLESS} AS study"],
    "a type": ["CREATE TYPE $type AS ENUM ('1')"],
    "schemas named like DuckDB's": [
        "CREATE SCHEMA results.system",
        "CREATE SCHEMA results.main.main",
        "CREATE SCHEMA results.system.main",
        "CREATE MACRO results.system.main.duckdb_tables() AS TABLE SELECT $payload AS x",
    ],
    "a sequence that counts otherwise": ["CREATE SEQUENCE ids INCREMENT BY $step MINVALUE -10 MAXVALUE 100 START 1"],
    "a trigger": ["CREATE TRIGGER t AFTER INSERT ON $table FOR EACH STATEMENT DELETE FROM prediction"],
    "an index over an expression": ["CREATE INDEX i ON $table_with_ids ((id * 2))"],
    "a table meta whose column is computed": [
        "DROP TABLE meta",
        "CREATE TABLE meta (schema_version INTEGER, bandlens VARCHAR GENERATED ALWAYS AS (repeat('y', $size)))",
    ],
    "a view meta": ["DROP TABLE meta", "CREATE VIEW meta AS SELECT 5 AS schema_version, $payload AS bandlens"],
    "a table whose default never ends": [
        "DROP TABLE part",
        "CREATE TABLE part (cell INTEGER, first INTEGER, count INTEGER, session INTEGER, seconds DOUBLE, "
        "right1 INTEGER, right5 INTEGER, committed BIGINT DEFAULT ($endless_rows))",
    ],
    "a table with a check": [
        "DROP TABLE class_name",
        "CREATE TABLE class_name (decision_space VARCHAR, class USMALLINT, name VARCHAR, "
        "CHECK (length(repeat(name, $size)) > 0))",
    ],
}
"""Name of a trick -> the statements that it runs in a sound database."""
for name in ("string_agg", "concat_ws", "list", "if", "||", "current_database"):
    overloads = ", ".join(f"({parameters}) AS $payload" for parameters in ("", "a", "a, b", "a, b, c"))
    STATEMENTS[f"a macro {name}"] = [f'CREATE MACRO "{name}" {overloads}']
for name, rows in {
    "duckdb_views": f"SELECT {ENDLESS} AS schema_name",
    "duckdb_functions": f"SELECT {HUGE} AS schema_name",
    "duckdb_tables": "SELECT 1 AS schema_name WHERE false",
}.items():
    statements = [f"CREATE MACRO {name}() AS TABLE {rows}", f"CREATE VIEW {name} AS {rows}"]
    STATEMENTS[f"a table macro {name}"] = statements
DAMAGED = {"cut off", "bytes changed", "a log of noise"}
"""Tricks that do not follow DuckDB's format: some of these files are whole by chance where it matters."""
NEW_ROWS = {"a table whose default never ends"}
"""Tricks that leave a table without its rows, as anybody may."""


def make_hostile(name: str, sound: Path, folder: Path, seed: int = 0) -> Path:
    """A copy of a sound database in a folder, after the trick of that name."""
    path = folder / "results.duckdb"
    shutil.copyfile(sound, path)
    random = Random(f"{name}{seed}")
    if name in STATEMENTS:
        change(path, *(fill(statement, random) for statement in STATEMENTS[name]))
    else:
        FUNCTIONS[name](path, random)
    return path


def fill(statement: str, random: Random) -> str:
    """Put one of its choices into the place of each `$word`."""
    return re.sub(r"\$(\w+)", lambda word: random.choice(CHOICES[word[1]]), statement)


def change(path: Path, *statements: str) -> None:
    """Run statements in a database, which they may make one that DuckDB 2 alone opens."""
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{path}' AS results (STORAGE_VERSION 'v2.0.0'); USE results")
        for statement in statements:
            connection.execute(statement)


def definition(path: Path, query: str, name: str) -> str:
    """The one answer of a query about the view or macro of that name."""
    with duckdb.connect(path, read_only=True) as connection:
        ((text,),) = connection.execute(query, [name]).fetchall()
    return str(text)


def hide_a_view(path: Path, random: Random) -> None:
    """Replace a view, and the listings of views and functions by macros that show nothing of it."""
    sound_view = definition(path, "SELECT sql FROM duckdb_views() WHERE view_name = ?", "accuracy").replace("'", "''")
    change(
        path,
        "CREATE MACRO duckdb_views() AS TABLE SELECT * REPLACE (CASE WHEN view_name = 'accuracy' "
        f"THEN '{sound_view}' ELSE sql END AS sql) FROM system.main.duckdb_views()",
        "CREATE OR REPLACE VIEW accuracy AS SELECT * REPLACE (0.999 AS top1) FROM accuracy_of('*')",
        "CREATE MACRO duckdb_functions() AS TABLE SELECT * FROM system.main.duckdb_functions() "
        "WHERE function_name NOT LIKE 'duckdb%' OR database_name = 'system'",
    )


def add_a_default(path: Path, random: Random) -> None:
    name = random.choice(["metric_of", "accuracy_of", "curve_of"])
    body = definition(path, "SELECT macro_definition FROM duckdb_functions() WHERE function_name = ?", name)
    change(path, f"CREATE OR REPLACE MACRO {name}(which := '*', further := {LIE}) AS TABLE {body}")


def leave_a_log(path: Path, random: Random) -> None:
    """Leave a statement in the log beside the database, as a process that is killed does."""
    code = (
        "import duckdb, os, sys\n"
        "connection = duckdb.connect(sys.argv[1])\n"
        "connection.execute(\"SET wal_autocheckpoint = '1TB'\")\n"
        "connection.execute(sys.argv[2])\n"
        "os._exit(0)"
    )
    statement = fill("CREATE OR REPLACE VIEW $view AS SELECT $payload AS x", random)
    subprocess.run([sys.executable, "-c", code, path, statement], check=True, timeout=LIMIT_SECONDS)


def leave_noise(path: Path, random: Random) -> None:
    path.with_name(f"{path.name}.wal").write_bytes(random.randbytes(5000))


def cut_off(path: Path, random: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(12_288, len(content) // 2)])


def flip_bits(path: Path, random: Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(2000):
        content[random.randrange(12_288, len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


FUNCTIONS: dict[str, Callable[[Path, Random], None]] = {
    "a view replaced, and hidden by two macros": hide_a_view,
    "a default of a macro's parameter": add_a_default,
    "a log that replaces a view": leave_a_log,
    "a log of noise": leave_noise,
    "cut off": cut_off,
    "bytes changed": flip_bits,
}
"""Name of a trick -> what does to a database what statements in it cannot."""
TRICKS = [*STATEMENTS, *FUNCTIONS]
