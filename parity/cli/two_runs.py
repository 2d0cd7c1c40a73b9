"""The two runs of a verb, named in one way by all verbs: `RUN --against REF`, or `REF RUN`, reference first."""

from pathlib import Path
from typing import Annotated, Final

import typer

from runners.errors import RunError

GOLDEN: Final = "golden"
Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="[REF] RUN", help="Run under test; REF before it is the same as --against REF.", show_default=False
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="Run taken as true, 'golden', 'golden@RELEASE', or 'whole-golden' from the store. Default: golden.",
    ),
]


def two_runs(runs: list[str], against: str | None) -> tuple[str | None, Path]:
    """The reference, None where none is named, and the folder of the run under test.

    Raises: RunError for more than two runs, or a reference named twice.
    """
    if len(runs) > 2 or (len(runs) == 2 and against is not None):
        named = " ".join([*runs, *([] if against is None else ["--against", against])])
        raise RunError(
            f"One run under test and one reference are wanted, as RUN --against REF or as REF RUN; got {named[:200]!r}."
        )
    return (runs[0] if len(runs) == 2 else against), Path(runs[-1])
