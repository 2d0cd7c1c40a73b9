"""One thing in which two sides differ: two runs, or where a limit was measured and where it is applied."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key with its value on both sides, as text. `old` is of the reference, or of the time before."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        """`key: old -> new`, for errors and JSON."""
        return f"{self.key}: {self.old} -> {self.new}"

    @property
    def beside(self) -> str:
        """`key: old against new`, for two runs beside each other; files of numbers have it so."""
        return f"{self.key}: {self.old} against {self.new}"


def read_beside(phrase: str) -> Difference:
    """A difference from what `beside` wrote into a file of numbers."""
    key, _, values = phrase.partition(": ")
    old, _, new = values.partition(" against ")
    return Difference(key=key, old=old, new=new)
