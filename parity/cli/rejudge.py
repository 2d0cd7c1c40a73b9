"""`parity rejudge`: verdicts reached on another machine, reached again here from their numbers."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def rejudge(
    record: Annotated[
        list[Path] | None, typer.Option("--record", help="Numbers to judge now and keep; repeat for more.")
    ] = None,
) -> int:
    """Judge all saved numbers again: 0 if each comes to its recorded outcome, 1 if one does not, 2 if one cannot be."""
    from parity.diff.runs import read_numbers
    from parity.judge.gate import judge_numbers
    from parity.judge.registry import load_registry
    from parity.judge.saved import (
        load_verdict,
        require_consistent,
        require_of_golden,
        require_population,
        require_whole,
        save_verdict,
        saved_verdicts,
    )
    from parity.report.words import sides_in_words
    from parity.runs.places import limits_path
    from runners.errors import RunError

    for path in record or []:
        found = read_numbers(path)
        verdict = judge_numbers(found)
        out.print(f"{save_verdict(found, verdict)}: {verdict.outcome}")
    registry = load_registry(limits_path())
    registry.verify()
    paths = saved_verdicts()
    if not paths:
        raise RunError("No golden has saved numbers; measure on a GPU with `make parity-gpu`, then use --record.")
    require_whole(paths)
    moved = 0
    for path in paths:
        saved = load_verdict(path)
        found = saved.found()
        require_of_golden(found)
        require_consistent(found)
        outcome = judge_numbers(found, saved.profile).outcome
        moved += outcome != saved.outcome
        change = outcome if outcome == saved.outcome else f"{outcome}, but {saved.outcome} was recorded"
        out.print(f"{found.case}, {path.stem}: {change}")
        for line in sides_in_words(found.sides):
            out.print(f"  {line}", soft_wrap=True)
    if moved:
        return 1
    require_population(registry)
    return 0
