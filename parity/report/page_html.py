"""HTML from Python values: every text and attribute is escaped, so nothing in a run can become a tag or a script.

A page is built of `Html`; a plain string inside it is text from somewhere and is made printable and escaped. Data for
scripts goes through `data_block`, which a browser reads as JSON and never as code.
"""

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from parity.trace.atomic import plain
from runners.printable import printable

VOID: Final = frozenset({"br", "hr", "input", "meta", "link", "img", "rect", "line", "polyline", "path", "circle"})
_JSON_ESCAPES: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


class Html(str):
    """Text that is HTML already. Only this module makes it."""

    __slots__ = ()


Node = Html | str | Iterable["Node"] | None


def tag(name: str, attributes: Mapping[str, str | int | float | bool | None], *children: Node) -> Html:
    """One element. An attribute that is None or False is left out, one that is True stands without a value."""
    parts = [name]
    for key, value in attributes.items():
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{text(str(value))}"')
    if name in VOID:
        return Html(f"<{' '.join(parts)}/>")
    return Html(f"<{' '.join(parts)}>{join(children)}</{name}>")


def join(nodes: Node) -> Html:
    """Nodes one after the other."""
    if nodes is None:
        return Html("")
    if isinstance(nodes, Html):
        return nodes
    if isinstance(nodes, str):
        return text(nodes)
    return Html("".join(join(node) for node in nodes))


def text(value: str) -> Html:
    """Text as HTML that shows it, control characters and direction marks as escapes."""
    return Html(html.escape("\n".join(printable(line) for line in value.split("\n"))))


def with_code(line: str) -> list[Node]:
    """A line of text, with what stands between backticks as code."""
    return [tag("code", {}, part) if index % 2 else part for index, part in enumerate(line.split("`"))]


def data_block(name: str, data: Any) -> Html:
    """JSON that a script of the page reads by the block's id; infinities and NaN are strings in it."""
    written = json.dumps(plain(data), allow_nan=False, separators=(",", ":")).translate(_JSON_ESCAPES)
    return Html(f'<script type="application/json" id="{text(name)}">{written}</script>')


def table(header: Iterable[Node], rows: Iterable[Html], attributes: Mapping[str, str] | None = None) -> Html:
    """A table with a header row; `rows` are `tr` elements."""
    head = tag("thead", {}, tag("tr", {}, (tag("th", {"scope": "col"}, cell) for cell in header)))
    return tag("table", attributes or {}, head, tag("tbody", {}, list(rows)))


def cell(label: str, *children: Node, kind: str = "") -> Html:
    """A table cell that carries its column's name, for screens too narrow for columns."""
    return tag("td", {"data-label": label, "class": kind or None}, *children)
