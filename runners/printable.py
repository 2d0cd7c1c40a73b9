"""Text from outside made printable: whatever it holds, it steers neither a terminal nor the CI that reads its log.

Control characters, escape sequences, half characters and invisible direction marks become escapes. So do the marks by
which CI systems know a command in a log: `::` where a line begins (GitHub), and `##[`, `##vso[` and the like anywhere
(GitHub, Azure, TeamCity).
"""

import re
from typing import Final

_BEGINS_COMMAND: Final = re.compile(r"\A( *):(?=:)")  # blanks before it are skipped by who looks for one
_HOLDS_COMMAND: Final = re.compile(r"(?<=#)#(?=\w*\[)")


def printable(text: str) -> str:
    """The text, from a file, a run, an engine or anywhere, in one line: its line breaks are escapes, too."""
    if not text.isprintable():
        text = "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)
    if "##" not in text and "::" not in text:
        return text  # nearly every text, and a table asks of each cell many times
    text = _HOLDS_COMMAND.sub(r"\\x23", text)
    return _BEGINS_COMMAND.sub(r"\1\\x3a", text)


def printable_lines(text: str) -> str:
    """The same for a text of lines, whose breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def printable_source(text: str) -> str:
    """JSON or TOML text that reads as the same values, what cannot be printed escaped inside its strings."""
    marks = (mark if mark.isprintable() or mark == "\n" else _in_a_string(mark) for mark in text)
    return _HOLDS_COMMAND.sub(r"\\u0023", "".join(marks))


def _in_a_string(mark: str) -> str:
    code = ord(mark)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
