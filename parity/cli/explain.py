"""`parity explain`: where a run first departs from its reference, in at most ten lines."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.two_runs import GOLDEN, Against, Runs, two_runs
from parity.cli.verb import out, save_or_print, verb


@verb
def explain(
    runs: Runs,
    against: Against = None,
    floors: Annotated[Path | None, typer.Option(help="Measured floors, from `parity amplify --out FILE`.")] = None,
    oracle: Annotated[Path | None, typer.Option(help="Official run in fp32 with a trace: who is nearer to it?")] = None,
    isolated: Annotated[
        Path | None, typer.Option(help="What `parity isolate REF --out FILE` left: does every block add the same?")
    ] = None,
    drift: Annotated[str | None, typer.Option(help="Also draw the drift of a part of the blocks, such as out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines; every tap's error is in it.")] = False,
) -> int:
    """Say which bits a run has, where it first departs, and in which code; exits 0 whatever it finds.

    Its first line is the one that a verdict carries that is no parity. Both runs are wanted with --taps '*'.
    """
    from parity.explain.diagnosis import diagnose
    from parity.judge.gate import calibrated_floors, verdict_of_runs
    from parity.report.drift import draw_drift
    from parity.report.explanation import every_tap_document, explanation_lines
    from parity.report.words import runs_named
    from parity.runs.folder import read_run
    from parity.runs.golden import reference_run

    against, run = two_runs(runs, against)
    candidate = read_run(run)
    reference = reference_run(against or GOLDEN, candidate.case_id)
    found = diagnose(
        reference,
        candidate,
        floors=floors,
        calibrated=calibrated_floors(candidate),
        oracle=None if oracle is None else read_run(oracle),
        isolated=isolated,
    )
    verdict = verdict_of_runs(reference, candidate, isolated)
    if save_or_print(lambda: every_tap_document(found, verdict), None, json):
        return 0
    for line in explanation_lines(found, verdict, candidate.case_id, runs_named(str(run), against)):
        out.print(line, soft_wrap=True)
    if drift is not None:
        draw_drift(out, found.drift, drift)
    return 0
