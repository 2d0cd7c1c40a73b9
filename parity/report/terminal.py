"""The one place that prints: a console through which nothing from outside steers a terminal or a CI system.

Every text that leaves goes through `runners.printable` here, so that no verb can forget it; a test forbids printing
anywhere else. Imports nothing that computes: help and typing errors are printed by it, too.
"""

import json
import sys
from collections.abc import Iterable
from typing import IO, Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from runners.printable import printable, printable_source


class Terminal(Console):
    """A console that takes markup from nobody and makes all text printable, and every string one line."""

    def __init__(self, *, file: IO[str] | None = None, stderr: bool = False, width: int | None = None) -> None:
        """Open a console.

        Args:
            file: to print to without colours; None takes the standard output of the moment.
            stderr: take standard error instead, and wrap no line.
            width: in columns, where there is no terminal to ask.
        """
        asked = file is None and not stderr and sys.stdout is not None and sys.stdout.isatty()
        super().__init__(
            file=file,
            stderr=stderr,
            width=None if asked else width,
            color_system="auto" if file is None else None,
            soft_wrap=stderr,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **styles: Any) -> Text:
        """A string, of which all that rich is given is made, in one line; what has lines of ours is a `Text`."""
        return super().render_str(printable(text), **styles)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with all text made printable, so that escape sequences are rich's own."""
        begins = True  # nothing but blanks stands before on this line
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
                continue
            first, *others = segment.text.split("\n")
            lines = [printable(first) if begins else _within_line(first), *map(printable, others)]
            begins = (begins or bool(others)) and not lines[-1].strip(" ")
            yield segment._replace(text="\n".join(lines))

    def on_broken_pipe(self) -> NoReturn:
        """Raise what happened; rich itself would end the process with an exit code that is a verdict."""
        raise

    def document(self, document: Any) -> None:
        """Print JSON data, in which no CI system finds a command."""
        self._write(printable_source(json.dumps(document, indent=2)) + "\n")

    def source(self, text: str) -> None:
        """Print JSON or TOML text as UTF-8, whatever the terminal is."""
        binary = getattr(self.file, "buffer", None)
        if binary is None:
            self._write(printable_source(text))
            return
        self.file.flush()
        binary.write(printable_source(text).encode("utf-8"))
        binary.flush()

    def commands(self, commands: Iterable[str]) -> None:
        """Print workflow commands of our own, whose parts were made printable when they were put together."""
        for command in commands:
            self._write(f"{command}\n")

    def _write(self, text: str) -> None:
        self.file.write(text)
        self.file.flush()


def _within_line(text: str) -> str:
    return printable(f"-{text}")[1:]  # colons are no command after anything
