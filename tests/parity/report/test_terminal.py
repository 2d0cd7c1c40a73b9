"""The terminal that everything is printed on: text from outside steers neither it nor a CI system, however it comes."""

import io
import json

import pytest
from rich.table import Table
from rich.text import Text

from parity.report.terminal import Terminal

HOSTILE = "\x1b[2J::error::x\n::error title=a::b\r[bold]##[error]c[/bold] :smile: \u202e\x9b"
SHOWN = "\\x1b[2J::error::x\\n::error title=a::b\\r[bold]#\\x23[error]c[/bold] :smile: \\u202e\\x9b"


def said(*objects: object, width: int = 500, **options: object) -> str:
    paper = io.StringIO()
    Terminal(file=paper, width=width).print(*objects, **options)  # type: ignore[arg-type]
    return paper.getvalue()


def test_a_string_is_one_line_and_shows_what_it_holds() -> None:
    assert said(HOSTILE) == SHOWN + "\n"
    assert said("::error::x") == "\\x3a:error::x\n"
    assert said("a", HOSTILE) == f"a {SHOWN}\n"


def test_a_text_keeps_its_lines_and_each_is_harmless() -> None:
    lines = said(Text.assemble(("fine", "red"), "\n", ("::error::x", "bold"), " \x1b]0;x\n  ", ("::y", "red")))
    assert lines == "fine\n\\x3a:error::x \\x1b]0;x\n  \\x3a:y\n"
    assert said(Text.assemble(("a", "red"), ("::b", "bold"))) == "a::b\n"


def test_a_line_that_begins_where_another_is_wrapped_is_no_command() -> None:
    for line in said("x" * 20 + " ::error::y", width=20).splitlines():
        assert not line.lstrip().startswith("::")


def test_tables_are_harmless_in_every_place() -> None:
    table = Table(HOSTILE, "::head", title=HOSTILE, box=None)
    table.add_row(HOSTILE, Text(HOSTILE))
    text = said(table)
    assert SHOWN in text
    assert not set("\x1b\r\x9b\u202e") & set(text)
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
    assert "##[" not in text


def test_styles_are_the_terminals_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", paper := io.StringIO())
    Terminal(width=80).print(Text("\x1b[32mgreen", "red"))
    assert paper.getvalue() == "\x1b[31m\\x1b[32mgreen\x1b[0m\n"


def test_json_is_the_same_data_and_no_line_of_it_a_command() -> None:
    paper = io.StringIO()
    Terminal(file=paper).document({"a": HOSTILE, "::error::": [HOSTILE]})
    assert json.loads(paper.getvalue()) == {"a": HOSTILE, "::error::": [HOSTILE]}
    assert "##[" not in paper.getvalue() and paper.getvalue().isascii()


def test_a_reader_that_has_gone_is_an_error_and_no_verdict() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Terminal(file=Gone()).print("x")
