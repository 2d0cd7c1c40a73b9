"""The folder of a suite: its own, which it says in a file, and whose runs it replaces."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from parity.runs.folder import holds_run
from parity.trace.atomic import own_folder, require_folder, require_target, write_bytes_atomic
from runners.case import Case

MARKER: Final = ".parity-suite"
SAYS: Final = "This folder belongs to `parity suite`, which replaces the runs in it: CASE/official and CASE/native.\n"


def run_place(folder: Path, case: Case, runner: str) -> Path:
    """The folder of a run in that of a suite. Raises: OutputError if a link lies there."""
    return own_folder(folder, case.id, runner)


def take_suite_folder(
    folder: Path, cases: Sequence[Case], runners: Sequence[str], *, resume: bool, replace: bool
) -> bool:
    """Make a folder the suite's own, unless finished runs are in it that no suite made.

    Args:
        folder: for the runs; may be a link, and be absent.
        cases: that will be run.
        runners: that will run them.
        resume: finished runs that are there may be kept, so that they are no reason to refuse the folder yet.
        replace: take the folder with all runs of these cases and runners in it.
    Returns: whether it is the suite's own, so that runs in it may be replaced.
    Raises: OutputError for such runs, and for links.
    """
    places = [run_place(folder, case, runner) for case in cases for runner in runners]
    require_target(folder / MARKER)
    owned = replace or (folder / MARKER).is_file() or not any(holds_run(place) for place in places)
    if not (owned or resume):
        for place in places:
            require_folder(place, holds_run, replace=False)
    if owned:
        write_bytes_atomic(folder / MARKER, SAYS.encode())
    return owned
