"""Text from outside, made printable: expected values are what the rules of terminals and CI systems leave harmless."""

import json
import tomllib

import pytest

from runners.printable import printable, printable_lines, printable_source


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is: é, 漢, 🙂 a::b #[x] ##", "as it is: é, 漢, 🙂 a::b #[x] ##"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m\x85", r"\x9b31m\x85"),  # what C1 terminals take for an escape sequence, and a line break
        ("a\r\nb\tc\x00", r"a\r\nb\tc\x00"),
        ("\u202eexe.\u2066\u200f\ufeff", r"\u202eexe.\u2066\u200f\ufeff"),
        ("\ud800 \udcff", r"\ud800 \udcff"),
        ("\u2028::error::", r"\u2028::error::"),
        ("::error::no", r"\x3a:error::no"),
        ("   ::stop-commands::x", r"   \x3a:stop-commands::x"),
        (":::", r"\x3a::"),
        ("a ##[error]b ##vso[task.x]c ##teamcity[d]", r"a #\x23[error]b #\x23vso[task.x]c #\x23teamcity[d]"),
        ("###[x]", r"##\x23[x]"),
    ],
)
def test_what_steers_a_terminal_or_a_log_becomes_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown  # and stays what it is


def test_lines_stay_lines_and_each_is_harmless() -> None:
    assert printable_lines("a\n::b\n\n \x1bc\r") == "a\n\\x3a:b\n\n \\x1bc\\r"


def test_json_and_toml_read_as_the_same_values() -> None:
    values = {"a": "##[error]\x9b\u202e漢\U000e0001", "##[b]": ["::x", "\x1b"]}
    for text in (json.dumps(values, indent=2), json.dumps(values, ensure_ascii=False)):
        shown = printable_source(text)
        assert json.loads(shown.replace("\\U000e0001", "\U000e0001")) == values
        assert "##[" not in shown and "\x9b" not in shown and "\u202e" not in shown
    toml = printable_source('a = "##[error]\x9b\u202e漢\U000e0001"\n')
    assert tomllib.loads(toml) == {"a": "##[error]\x9b\u202e漢\U000e0001"}
    assert toml == 'a = "#\\u0023[error]\\u009b\\u202e漢\\U000e0001"\n'
