"""`parity explain`: where a run first departs from its reference, in at most ten lines."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, saved_or_said, verb


@verb
def explain(
    run: Annotated[Path, typer.Argument(help="Run under test, recorded with --taps '*'.")],
    against: Annotated[
        str, typer.Option(help="A reference run with a trace, 'golden', or 'golden@RELEASE'.")
    ] = "golden",
    floors: Annotated[Path | None, typer.Option(help="Measured floors, from `parity amplify --out FILE`.")] = None,
    oracle: Annotated[Path | None, typer.Option(help="Official run in fp32 with a trace: who is nearer to it?")] = None,
    drift: Annotated[str | None, typer.Option(help="Also draw the drift of a part of the blocks, such as out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines; every tap's error is in it.")] = False,
) -> int:
    """Say where a run first departs, in which code, by how much more than harmless noise; exits 0 whatever it finds."""
    from parity.explain.diagnosis import diagnose
    from parity.judge.gate import calibrated_floors
    from parity.report.drift import draw_drift
    from parity.report.explanation import every_tap_document, explanation_lines
    from parity.runs.folder import read_run
    from parity.runs.golden import reference_run

    candidate = read_run(run)
    reference = reference_run(against, candidate.case_id)
    found = diagnose(
        reference,
        candidate,
        floors=floors,
        calibrated=calibrated_floors(candidate),
        oracle=None if oracle is None else read_run(oracle),
    )
    if saved_or_said(lambda: every_tap_document(found), None, json):
        return 0
    for line in explanation_lines(found):
        out.print(line, soft_wrap=True)
    if drift is not None:
        draw_drift(out, found.drift, drift)
    return 0
