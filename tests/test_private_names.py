"""No test leans on a name with a leading underscore: what deserves a test is public, the rest may change freely."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
OWN = {"self", "cls"}
NOT_OURS = {  # of torch, torchaudio, typer and the operating system, which have no public way
    *("_forward_pre_hooks", "_fused_sdp_choice", "_IS_TORCHAUDIO_EXT_AVAILABLE", "_get_command", "_exit"),
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def leaned_on(text: str) -> Iterator[str]:
    """Private names that a source imports, reads off something else than itself, or patches by their text."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Attribute) and private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in OWN):
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("setattr", "object", "patch"):
            texts = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            yield from (last for text in texts if private(last := text.split(".")[-1]))


def test_no_test_leans_on_a_private_name() -> None:
    paths = sorted(TESTS.rglob("*.py"))
    found = {path: set(leaned_on(path.read_text(encoding="utf-8"))) for path in paths}
    assert len(paths) > 100 and set.union(*found.values()) >= NOT_OURS, "an exception that is needed no more"
    assert {str(path): names - NOT_OURS for path, names in found.items() if names - NOT_OURS} == {}


@pytest.mark.parametrize(
    "text",
    [
        "from parity.cli.suite import _judged",
        "sketch._kernel.cache_clear()",
        "monkeypatch.setattr(make, '_write', broken)",
        "patch('parity.diff.runs._side')",
        "class A:\n    def f(self, other):\n        return self.x._y",
    ],
)
def test_a_private_name_is_seen(text: str) -> None:
    assert list(leaned_on(text))


def test_what_a_test_keeps_for_itself_is_its_own() -> None:
    innocent = "class _A:\n    def f(self):\n        self._x, _ = 1, 2\n        return self._x.__class__"
    assert list(leaned_on(innocent)) == []
