"""`parity report`: one run as one page that needs no network."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def report(
    run: Annotated[Path, typer.Argument(help="Run under test.")],
    page: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    against: Annotated[
        str, typer.Option(help="A reference run, 'golden', or 'whole-golden' from the store.")
    ] = "golden",
    isolated: Annotated[
        Path | None, typer.Option(help="What `parity isolate REF --out FILE` left, to be judged as well.")
    ] = None,
    floors: Annotated[Path | None, typer.Option(help="Measured floors, from `parity amplify --out FILE`.")] = None,
    identified: Annotated[
        Path | None, typer.Option(help="Which release it follows, from `parity identify --out FILE`.")
    ] = None,
) -> int:
    """Draw a run beside its reference; exits 0 once the page is written, whatever it says, and `parity gate` judges."""
    from parity.cli.gate import calibrated_floors, compared, judged, profile_of
    from parity.diff.runs import compare_runs
    from parity.explain.diagnosis import diagnose, read_floors
    from parity.explain.floors import Floors
    from parity.judge.limit import Limit
    from parity.judge.perf import PerfVerdict, load_perf_registry
    from parity.judge.registry import device_of, load_registry
    from parity.judge.timed import judge_timed, timed_run
    from parity.judge.verdict import Verdict
    from parity.report.page import Content, Traced, head_word, write_page
    from parity.report.page_identity import read_identified
    from parity.runs.case import flow_of
    from parity.runs.folder import TRACE_FILE, read_run
    from parity.runs.golden import reference_run
    from parity.runs.places import baselines_path, limits_path
    from parity.trace.file import read_trace
    from runners.errors import RegistryError, RunError

    candidate = read_run(run)
    reference = reference_run(against, candidate.case_id)

    verdict: Verdict | str
    try:
        found = compared(reference, candidate, isolated)
    except RunError as error:  # of a golden that says what limits hold for; the runs can be drawn without
        found = compare_runs(reference, candidate, isolated)
        verdict = str(error)
    else:
        try:
            verdict = judged(found, profile_of(found))
        except RegistryError as error:
            verdict = str(error)

    limits: dict[str, Limit] = {}
    if limits_path().is_file():
        limits = load_registry(limits_path()).limits_of(found.case, device_of(found.environment_of_candidate))

    perf: PerfVerdict | str
    try:
        perf = judge_timed(load_perf_registry(baselines_path()), [timed_run(candidate.record)])
    except RegistryError as error:
        perf = str(error)

    traced: Traced | str
    if reference.has(TRACE_FILE) and candidate.has(TRACE_FILE):
        try:
            measured = None if floors is None else read_floors(floors, candidate)
            calibrated = calibrated_floors(candidate)
            flow = flow_of(reference, candidate, read_trace(reference.folder))
            traced = Traced(
                diagnosis=diagnose(reference, candidate, floors=floors, calibrated=calibrated),
                flow=flow,
                floors=Floors(flow, candidate.record.dtype, measured, calibrated),
            )
        except RunError as error:
            traced = str(error)
    else:
        traced = "a trace of both runs is needed to tell; record them with --taps '*'"

    content = Content(
        reference=reference,
        candidate=candidate,
        found=found,
        verdict=verdict,
        perf=perf,
        traced=traced,
        limits=limits,
        identified=None if identified is None else read_identified(identified, candidate),
    )
    size = write_page(page, content)
    out.print(f"{page}: {head_word(verdict)}, {size / 1e6:.1f} MB", markup=False)
    return 0
