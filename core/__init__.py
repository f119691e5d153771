"""The values and helpers that every room may use, and which know no room."""
