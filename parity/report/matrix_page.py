"""The grid of a matrix as one HTML page, each cell a link to the page of its run. It needs no script and no network."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Final

from parity.fleet.grid import Grid, GridRow
from parity.report.ladder import COLUMNS, ladder_rows
from parity.report.matrix import WORDS, cells_of, code_at, columns, headline, notes, reasons
from parity.report.page_html import Html, Node, cell, table, tag

STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #8884; vertical-align: top; }
thead th { position: sticky; top: 0; background: Canvas; }
td.parity { border-left: 4px solid #2a8f4c; }
td.differs { border-left: 4px solid #c8302c; font-weight: 600; }
td.unjudged { border-left: 4px solid #c98a00; }
"""
_KIND: Final = {0: "parity", 1: "differs", 2: "unjudged"}


def matrix_page(grid: Grid, pages: Mapping[tuple[str, str], str]) -> str:
    """The page.

    Args:
        grid: to draw.
        pages: where the page of a cell lies, relative to this one, by the key of its row and its engine.
    """
    rows = [_row(grid, row, pages) for row in grid.rows]
    steps = [tag("tr", {}, [cell(*pair) for pair in zip(COLUMNS, line, strict=True)]) for line in ladder_rows(grid)]
    said: list[Node] = [tag("li", {}, text) for text in [*notes(grid), *reasons(grid)]]
    body = [
        tag("h1", {}, headline(grid)),
        tag("p", {}, f"Matrix {grid.name}, begun {grid.created_utc}. A cell links to the page of its run."),
        table(columns(grid), rows),
        tag("h2", {}, "Ladder") if steps else None,
        table(COLUMNS, steps) if steps else None,
        tag("h2", {}, "What keeps cells from parity") if said else None,
        tag("ul", {}, said) if said else None,
    ]
    policy = f"default-src 'none'; style-src 'sha256-{_digest(STYLE)}'; base-uri 'none'; form-action 'none'"
    head = [
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("link", {"rel": "icon", "href": "data:,"}),
        tag("title", {}, f"{WORDS[grid.code]}: matrix {grid.name}"),
        tag("style", {}, Html(STYLE)),
    ]
    page = tag("html", {"lang": "en"}, tag("head", {}, head), tag("body", {}, body))
    return f"<!DOCTYPE html>\n{page}\n"


def _row(grid: Grid, row: GridRow, pages: Mapping[tuple[str, str], str]) -> Html:
    heads, texts = columns(grid), cells_of(grid, row)
    parts = [cell(head, text) for head, text in zip(heads[:3], texts[:3], strict=True)]
    for number, engine in enumerate(grid.engines):
        page, code, words = pages.get((row.key, engine)), code_at(row, engine), texts[3 + number]
        shown: Node = words if page is None else tag("a", {"href": page}, words)
        parts.append(cell(engine, shown, kind="" if code is None else _KIND[code]))
    return tag("tr", {}, parts)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
