"""One word, one thing: no two public classes have one name."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("runners", "parity", "bench")


def doubled(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Public names of more than one class at the top of a file, each with its files."""
    files = defaultdict(list)
    for file, text in texts:
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(file)
    return {name: found for name, found in files.items() if len(found) > 1}


def test_no_two_classes_have_one_name() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 300
    assert doubled((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in paths) == {}


def test_two_classes_of_one_name_are_seen() -> None:
    texts = [("a.py", "class Row: ...\nclass _Own: ..."), ("b.py", "class Row: ...\nclass _Own: ...\nclass Table: ...")]
    assert doubled(texts) == {"Row": ["a.py", "b.py"]}
