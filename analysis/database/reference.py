"""The schema as a page, generated from the comments in the database itself.

`python -P -m bandlens.analysis.database.reference > docs/reference/schema.md` writes it again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .open import open_store
from .store import Store

HEAD = """\
# The results database

One DuckDB file. Tables hold what was run, views answer questions ([sql.md](sql.md)). Generated from the comments in
`analysis/database/schema.sql`, which the database carries with it: `SELECT * FROM duckdb_columns()`.
"""

OBJECTS = """
SELECT 'table' AS kind, table_name AS name, comment FROM duckdb_tables() WHERE NOT internal
UNION ALL SELECT 'view', view_name, comment FROM duckdb_views() WHERE NOT internal
"""
COLUMNS = "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"


def schema_reference(store: Store) -> str:
    """Markdown: the views, then the tables, with every column's type and comment."""
    found = store.frame(f"FROM ({OBJECTS}) ORDER BY kind DESC, name").rows()
    pages = [HEAD]
    for kind, title in (("view", "Views"), ("table", "Tables")):
        pages.append(f"\n## {title}\n")
        for name, comment in [(name, comment) for k, name, comment in found if k == kind]:
            columns = store.frame(COLUMNS, [name]).rows()
            rows = [f"| `{column}` | {data_type} | {text} |" for column, data_type, text in columns]
            pages.append(
                "\n".join([f"\n### {name}\n", f"{comment}.\n", "| column | type | |", "|---|---|---|", *rows, ""])
            )
    return "".join(pages)


def main() -> None:
    with TemporaryDirectory() as folder, open_store(Path(folder) / "empty.duckdb") as store:
        sys.stdout.write(schema_reference(store))


if __name__ == "__main__":
    main()
