"""`parity gate`: numbers against limits, and the exit code that CI reads.

0 parity, 1 not at parity (or too slow, with --perf), 2 could not judge.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.cli.two_runs import GOLDEN, Against, Runs, two_runs
from parity.cli.verb import err, out, verb

if TYPE_CHECKING:
    from parity.diff.runs import RunsDiff
    from parity.judge.verdict import Verdict
    from parity.runs.folder import Run


@verb
def gate(
    runs: Runs,
    against: Against = None,
    numbers: Annotated[bool, typer.Option("--numbers", help="RUN is a file that `parity diff --out` wrote.")] = False,
    isolated: Annotated[
        Path | None, typer.Option(help="What `parity isolate REF --out FILE` left, to be judged as well.")
    ] = None,
    perf: Annotated[
        bool, typer.Option("--perf", help="Judge speed as well, by the baselines of this machine.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit file, one test case a metric group.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every metric with the reason of its limit, not the worst five.")
    ] = False,
) -> int:
    """Judge a run by the registry; exits 0 at parity, 1 not at parity or too slow, 2 if it could not be judged.

    With --numbers, RUN is a file of saved numbers.
    """
    from msgspec import to_builtins

    from parity.diff.runs import read_numbers
    from parity.judge.gate import compare_as_judged
    from parity.report.junit import error_suite, write_junit
    from parity.report.markdown import annotation, error_markdown, say_in_workflow
    from parity.report.words import next_steps
    from parity.runs.folder import read_run
    from parity.runs.golden import reference_run
    from parity.trace.atomic import require_named_target
    from runners.errors import OutputError, ParityError, RunError

    found, pair = None, None
    against, run = two_runs(runs, against)
    try:
        require_named_target(junit)
        if perf and numbers:
            raise RunError("--perf needs a run; saved numbers hold no times.")
        if isolated is not None and numbers:
            raise RunError("--isolated goes with a run; give it to `parity diff --out`, and saved numbers hold it.")
        if numbers and len(runs) > 1:
            raise RunError("--numbers takes one file; saved numbers are of two runs already.")
        if numbers:
            found = read_numbers(run)
        else:
            candidate = read_run(run)
            pair = reference_run(against or GOLDEN, candidate.case_id), candidate
            found = compare_as_judged(*pair, isolated)
        return _judged(found, pair, isolated, perf, json, junit, verbose, next_steps(str(run), against) if pair else ())
    except ParityError as error:
        why = "" if found is None else _explained(pair, str(error), isolated)[0]
        if junit is not None and not isinstance(error, OutputError):
            write_junit(junit, [error_suite(run.name, str(error), why)])
        said = [annotation(f"parity {run.name}", text) for text in (why, str(error)) if text]
        say_in_workflow(error_markdown(run.name, str(error), why), said, err if json else out)
        if json:
            document = {"outcome": "undecided", "exit_code": 2, "error": str(error), "explanation": why}
            if found is not None:  # compared, but not judged: what differs is often why
                document["environment_differences"] = [one.beside for one in found.environment]
                document["sides"] = to_builtins(found.sides)
            out.document(document)
        raise


def _explained(runs: "tuple[Run, Run] | None", verdict: "Verdict | str", isolated: Path | None) -> tuple[str, str]:
    """The first line of the explanation, and the place of the first divergence where there is one."""
    from parity.report.explanation import told_of_runs

    if runs is None:
        return "saved numbers hold no taps; `parity explain RUN --against REF` tells where it departs", ""
    return told_of_runs(*runs, verdict, isolated)


def _judged(
    found: "RunsDiff",
    runs: "tuple[Run, Run] | None",
    isolated: Path | None,
    perf: bool,
    json: bool,
    junit: Path | None,
    verbose: bool,
    steps: tuple[str, ...],
) -> int:
    """Judge numbers, and the candidate's speed if asked for, and say what came of it everywhere."""
    from parity.judge.gate import judge_numbers, other_release
    from parity.judge.perf import load_perf_registry
    from parity.judge.timed import judge_timed, timed_run
    from parity.report.documents import gate_document
    from parity.report.junit import perf_suite, verdict_suite, write_junit
    from parity.report.markdown import annotations, say_in_workflow, verdict_markdown
    from parity.report.tables import draw_gate
    from parity.report.words import in_words, release_followed, sides_in_words
    from parity.runs.places import baselines_path
    from runners.errors import RegistryError

    try:
        verdict = judge_numbers(found)
    except RegistryError as error:
        if not json:
            for line in sides_in_words(found.sides):
                out.print(line, soft_wrap=True)
            out.print(_explained(runs, str(error), isolated)[0], soft_wrap=True)
        followed = None if runs is None else other_release(*runs)
        raise error if followed is None else RegistryError(f"{release_followed(followed)} {error}") from None
    followed = None if runs is None or verdict.outcome == "parity" else other_release(*runs)
    timed = None
    if perf and runs is not None:
        timed = judge_timed(load_perf_registry(baselines_path()), [timed_run(runs[1].manifest)])
    why, first = ("", "") if verdict.outcome == "parity" else _explained(runs, verdict, isolated)
    said = in_words(verdict, timed, followed, why, first)
    beside = err if json else out  # JSON has the output to itself
    say_in_workflow(verdict_markdown(said, steps), annotations(said), beside)
    if not json:  # first, so that a file that cannot be written hides no verdict; JSON is one document
        draw_gate(out, said, whole=verbose, steps=steps)
    if junit is not None:
        write_junit(junit, [verdict_suite(said), *([perf_suite(timed)] if timed else [])])
    if json:
        out.document(gate_document(said, found))
    return said.exit_code
