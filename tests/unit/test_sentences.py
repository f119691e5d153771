"""Docstrings and comments are sentences that can be read alone, and none begins as the second half of one."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from imports_of_folders import PACKAGE, PROGRAMS, SOURCES

BEGINNINGS = re.compile(r"(of|in which|that|as many|between|what)\b", re.IGNORECASE)
"""The first words of a text that needs another one before it; "what" of a question is not meant."""

IN_A_COMMENT = re.compile(rf"#[# ]*{BEGINNINGS.pattern}", re.IGNORECASE)
"""A file without a match has no comment that begins so; to split all files into tokens would take seconds."""


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string that stands alone: of modules, classes, functions, constants and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of every comment; lines of a longer one count with its first."""
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, own_line = token.start[0], token.line.lstrip().startswith("#")
            if not (own_line and line == last + 1):
                yield line, token.string
            last = line if own_line else -1


def fragments(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    for line, words in (*docstrings(ast.parse(text)), *(comments(text) if IN_A_COMMENT.search(text) else ())):
        sentence = words.lstrip("# \n")
        if BEGINNINGS.match(sentence) and not sentence.rstrip().endswith("?"):
            yield f"{file.relative_to(PACKAGE).as_posix()}:{line}: {sentence[:80]}"


def test_texts_begin_as_sentences() -> None:
    assert [fragment for file in (*SOURCES, *PROGRAMS) for fragment in fragments(file)] == []
