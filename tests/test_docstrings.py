"""Docstrings begin with what the thing is or does: none of a module, class or function begins with a question word."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("runners", "parity", "bench", "tests")
WORD = r"(?:Whether|What|Where|Why|How|Which|Who|When)\b"
BEGINS = re.compile(WORD)
MAY_BEGIN = re.compile(rf"""["'](?:\s|\\\n)*{WORD}""")  # a file without such a text need not be parsed


def asking(text: str) -> list[str]:
    """Docstrings of a source that begin with a question word, each with the name and line of its owner."""
    if MAY_BEGIN.search(text) is None:
        return []
    return [
        f"{getattr(node, 'name', 'module')}, line {getattr(node, 'lineno', 1)}: {said.splitlines()[0]}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and BEGINS.match(said := ast.get_docstring(node) or "")
    ]


def test_every_docstring_begins_with_the_thing_or_what_it_does() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 700 and {path.relative_to(ROOT).parts[0] for path in paths} == set(FOLDERS)
    found = {str(path.relative_to(ROOT)): asking(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: docstrings for name, docstrings in found.items() if docstrings} == {}


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("'''What is here.'''", "module, line 1: What is here."),
        ('import ast\n\nclass A:\n    """Which of them.\n\n    More.\n    """', "A, line 3: Which of them."),
        ("class A:\n    @property\n    def f(self):\n        'How many.'", "f, line 3: How many."),
        ('async def f():\n    r"""\n    Whether it is so.\n    """', "f, line 1: Whether it is so."),
        ('def f():\n    """\\\n    Who asks."""', "f, line 1: Who asks."),
        ('def f():\n    def g():\n        """Why\n        not."""', "g, line 2: Why"),
    ],
)
def test_a_docstring_that_asks_is_named(text: str, owner: str) -> None:
    assert asking(text) == [owner]


@pytest.mark.parametrize(
    "text",
    [
        '"""Whatever is left."""',
        "def f():\n    'The place where it lies. What is not there is named.'",
        "def f():\n    '''Returns.'''\n    return 'What is this?'",
        "X = '''Where it is.'''",
    ],
)
def test_other_texts_may_begin_as_they_like(text: str) -> None:
    assert asking(text) == []
