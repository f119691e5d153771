"""Mkdocs calls these functions, for what mkdocs.yml cannot say, while it makes the site of these pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

FILE = re.compile(r"^(```\w+) file=(\S+)$", re.MULTILINE)
"""The head of a block that the tests write into a file."""


def on_config(config: Any) -> None:
    """List every decision in the last chapter."""
    folder = Path(config.docs_dir)
    pages = sorted(page.relative_to(folder).as_posix() for page in (folder / "decisions").glob("*.md"))
    [chapter] = config.nav[-1].values()
    chapter.append({"Decisions": pages})


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show the name of its file above a block; the search finds decisions after all other pages."""
    if page.file.src_uri.startswith("decisions/"):
        page.meta["search"] = {"boost": 0.1}
    return FILE.sub(r'\1 title="\2"', markdown)
