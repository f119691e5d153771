"""Joins say which side's order their rows keep: without it, Polars gives them in any."""

from __future__ import annotations

import ast

from imports_of_folders import PACKAGE, SOURCES


def test_every_join_of_frames_keeps_an_order() -> None:
    """Those that only leave rows out keep the order of the left side."""
    disordered = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
                options = {keyword.arg: keyword.value for keyword in node.keywords}
                how = options.get("how")
                leaves_out = isinstance(how, ast.Constant) and how.value in ("anti", "semi", "cross")
                if "on" in options and "maintain_order" not in options and not leaves_out:
                    disordered.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert not disordered, f"joins without maintain_order: {disordered}"
