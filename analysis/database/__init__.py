"""Create, open, query, verify and merge the DuckDB database that stores results."""
