"""`parity gate`: numbers against limits, and the exit code that CI reads.

0 parity, 1 not at parity (or too slow, with --perf), 2 could not judge.
"""

import json as json_module
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parity.cli.verb import out, verb

if TYPE_CHECKING:
    from parity.diff.runs import RunsDiff, Side
    from parity.judge.verdict import Profile, Verdict
    from parity.runs.folder import Run, RunRecord


@verb
def gate(
    run: Annotated[Path, typer.Argument(help="Run under test, or with --numbers a file of saved numbers.")],
    against: Annotated[
        str, typer.Option(help="A reference run, 'golden', 'golden@RELEASE', or 'whole-golden' from the store.")
    ] = "golden",
    numbers: Annotated[bool, typer.Option("--numbers", help="RUN is a file that `parity diff --out` wrote.")] = False,
    isolated: Annotated[
        Path | None, typer.Option(help="What `parity isolate REF --out FILE` left, to be judged as well.")
    ] = None,
    perf: Annotated[
        bool, typer.Option("--perf", help="Judge speed as well, by the baselines of this machine.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit file, one test case a metric group.")] = None,
) -> int:
    """Judge a run by the registry; exits 0 at parity, 1 not at parity or too slow, 2 if it could not be judged."""
    from parity.diff.runs import read_numbers
    from parity.report.junit import error_suite, write_junit
    from parity.report.markdown import annotation, error_markdown
    from runners.errors import ParityError, RunError

    found = None
    try:
        if perf and numbers:
            raise RunError("--perf needs a run; saved numbers hold no times.")
        if isolated is not None and numbers:
            raise RunError("--isolated goes with a run; give it to `parity diff --out`, and saved numbers hold it.")
        runs = None if numbers else _runs(run, against)
        found = read_numbers(run) if runs is None else compared(*runs, isolated)
        return _reported(found, runs, run if perf else None, json, junit)
    except ParityError as error:
        if junit is not None:
            write_junit(junit, [error_suite(run.name, str(error))])
        _say_in_workflow(error_markdown(run.name, str(error)), [annotation(f"parity {run.name}", str(error))], json)
        if json:
            document = {"outcome": "undecided", "exit_code": 2, "error": str(error)}
            if found is not None:  # compared, but not judged: what differs is often why
                document["environment_differences"] = list(found.environment)
            typer.echo(json_module.dumps(document, indent=2))
        raise


def _runs(run: Path, against: str) -> "tuple[Run, Run]":
    """Reference and candidate."""
    from parity.runs.folder import read_run
    from parity.runs.golden import reference_run

    candidate = read_run(run)
    return reference_run(against, candidate.case_id), candidate


def profile_of(found: "RunsDiff") -> "Profile":
    """How a run is judged: the exact tier by bit equality with an official run of the same environment.

    In another environment the official code itself may have other bits, so limits hold there; bits that are equal all
    the same need no limit, whatever was measured where. Any other tier or runner is judged by limits everywhere.
    """
    exact = _of_exact_tier(found.candidate)
    return "exact" if exact and (not found.environment or has_every_bit(found)) else "limits"


def _of_exact_tier(candidate: "Side | RunRecord") -> bool:
    return candidate.runner in ("native", "official") and candidate.tier == "exact"


def compared(
    reference: "Run", candidate: "Run", isolated: Path | None = None, profile: "Profile | None" = None
) -> "RunsDiff":
    """Compare two runs as they are judged: by everything where bits decide, by what limits were measured on elsewhere.

    Limits of a case with a reduced golden are those of key frames, small frames and some taps. All frames and all taps
    of two whole runs are another population, and the worst of them is worse.
    """
    from parity.diff.runs import compare_runs, kept_of_case

    if reference.reduced or candidate.reduced or profile == "exact":
        return compare_runs(reference, candidate, isolated)
    by_bits = None
    if profile is None and _of_exact_tier(candidate.record):
        by_bits = compare_runs(reference, candidate, isolated)
        if profile_of(by_bits) == "exact":
            return by_bits
    kept = kept_of_case(reference.case_id)
    if by_bits is not None and kept is None:
        return by_bits
    return compare_runs(reference, candidate, isolated, kept=kept)


def _of_another_release(found: "RunsDiff") -> str:
    """The release that the limits of a case were measured at, if it is not the one that these runs follow.

    A case moves with its limits, so that its file names the release of both. A case that lies elsewhere is its own.
    """
    from parity.runs.golden import find_case
    from runners.errors import CaseError

    try:
        named = find_case(found.case).reference
    except CaseError:
        return ""
    return "" if named == found.reference.reference else named


def has_every_bit(found: "RunsDiff") -> bool:
    """Whether outputs, and taps where they were compared, have the reference's bits, and nothing is missing."""
    from parity.judge.verdict import BIT_EQUALITIES

    equal = all(found.metrics.get(name) == 1.0 for name in BIT_EQUALITIES)
    return equal and not found.findings and not found.metrics.get("taps.bit_different")


def judged(found: "RunsDiff", profile: "Profile") -> "Verdict":
    """Judge numbers by bit equality or by the registry's limits.

    Raises: RegistryError if a limit is missing, or the limits were measured at another release than the runs follow.
    """
    from parity.judge.registry import load_registry
    from parity.judge.strength import load_strength
    from parity.judge.verdict import judge
    from parity.runs.places import limits_path, mutation_path
    from runners.errors import RegistryError

    if profile == "limits" and (other := _of_another_release(found)):
        follows = found.reference.reference
        raise RegistryError(
            f"Limits of case {found.case!r} hold at release {other}, which its file names; the runs follow {follows}. "
            f"Take a case of {follows}, or move this one: `parity bless RUN --reference {follows} --weights W`."
        )
    return judge(
        case=found.case,
        profile=profile,
        metrics=found.metrics,
        findings=found.findings,
        registry=load_registry(limits_path()) if profile == "limits" else None,
        environment={key: str(value) for key, value in found.environment_of_candidate.items()},
        levels=found.levels,
        strength=load_strength(mutation_path()),
        compared_on=found.compared_on,
        padded_text=found.padded_text,
    )


def calibrated_floors(run: "Run") -> "dict[str, tuple[float, float]]":
    """The registry's floor and limit of each group of taps where a run was made; none where there is no registry."""
    from parity.judge.registry import device_of, load_registry
    from parity.runs.places import limits_path

    if not limits_path().is_file():
        return {}
    return load_registry(limits_path()).floors_of(run.case_id, device_of(run.record.environment))


def _reported(
    found: "RunsDiff", runs: "tuple[Run, Run] | None", clocked: Path | None, json: bool, junit: Path | None
) -> int:
    from parity.judge.perf import load_perf_registry
    from parity.judge.timed import judge_timed, timed_run
    from parity.judge.verdict import gate_exit_code
    from parity.report.junit import perf_suite, verdict_suite, write_junit
    from parity.report.markdown import annotations, verdict_markdown
    from parity.report.tables import draw_gate
    from parity.runs.folder import read_run
    from parity.runs.places import baselines_path
    from runners.errors import RegistryError

    if not json:
        for phrase in found.environment:
            out.print(f"environment differs: {phrase}", markup=False)
    try:
        verdict = judged(found, profile_of(found))
    except RegistryError as error:
        other = None if runs is None else _other_release(*runs)
        raise error if other is None else RegistryError(f"{other} {error}") from None
    other = None if runs is None or verdict.outcome == "parity" else _other_release(*runs)
    timed = None
    if clocked is not None:
        timed = judge_timed(load_perf_registry(baselines_path()), [timed_run(read_run(clocked).record)])
    if junit is not None:
        write_junit(junit, [verdict_suite(verdict), *([perf_suite(timed)] if timed else [])])
    _say_in_workflow(verdict_markdown(verdict, timed), annotations(verdict, timed), json)
    code = gate_exit_code(verdict.exit_code, timed.exit_code if timed else 0)
    if json:
        document: dict[str, Any] = {**verdict.document(), "environment_differences": list(found.environment)}
        document["other_release"] = other
        document["left_out"] = asdict(found.left_out)
        typer.echo(json_module.dumps({**document, "exit_code": code}, indent=2))
    else:
        draw_gate(out, verdict, timed)
        if other is not None:
            out.print(other, markup=False, soft_wrap=True)
    return code


def _other_release(reference: "Run", candidate: "Run") -> str | None:
    """Why a candidate is not at parity, in a line, if it is with the golden of another release."""
    from parity.identify.releases import follows_another
    from parity.runs.golden import goldens_of_request
    from runners.errors import RunError

    try:
        return follows_another(candidate, reference, goldens_of_request(candidate))
    except RunError:  # what cannot be told here must not hide the verdict
        return None


def _say_in_workflow(summary: str, commands: list[str], json: bool) -> None:
    """Add to a workflow's job summary and annotate its run, where there is one; JSON keeps the output to itself."""
    from parity.report.markdown import append_summary

    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        append_summary(Path(path), summary)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for command in commands:
            typer.echo(command, err=json)  # the workflow reads both
