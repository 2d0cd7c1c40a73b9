"""`parity mutate`: put every known defect into the native model and count which the gate notices, and where."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from parity.cli.threads import Threads, compute_on
from parity.cli.verb import err, out, verb

if TYPE_CHECKING:
    from parity.calibrate.mutation_score import Score


@verb
def mutate(
    weights: Annotated[str, typer.Option(help="Folder of the model's files, or forge:PRESET:SEED.")],
    case: Annotated[str, typer.Option(help="Id under golden/ or TOML file; its limits judge.")] = "tiny_ti2v",
    defect: Annotated[list[str] | None, typer.Option(help="Try these defects only.")] = None,
    runner: Annotated[str, typer.Option(help="native or native:TIER: what the defects are put into.")] = "native",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; the limits of this device judge.")] = "cpu",
    limits: Annotated[
        Path | None, typer.Option(help="Registry of limits to judge by; default: the checkout's.")
    ] = None,
    share: Annotated[str, typer.Option(help="K/N: the K-th of N shares of defects and harmless runs.")] = "1/1",
    samples: Annotated[
        list[Path] | None,
        typer.Option(
            help="Keep each trial here; the same call goes on with it. Further files, of shares: joined to it."
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Begin no trial that would end later.")] = None,
    threads: Threads = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    save: Annotated[Path | None, typer.Option("--out", help="Save everything as JSON; verdicts cite it.")] = None,
) -> int:
    """Count the known defects that are noticed under limits; exits 1 if one survives or a harmless run fails."""
    from parity.calibrate.checkpoint import measured_in
    from parity.calibrate.mutation import MutationCheckpoint
    from parity.calibrate.mutation import mutate as run
    from parity.defects.catalogue import CATALOGUE
    from parity.judge.registry import load_registry, root_of_limits
    from parity.runs.execute import device_named
    from parity.runs.golden import find_case
    from parity.runs.places import limits_path
    from parity.trace.atomic import require_named_target, write_json_atomic
    from runners.case import case_document
    from runners.catalogue import runner_and_tier
    from runners.errors import CaseError, RegistryError, RunnerError
    from runners.files import sha256_of
    from runners.forge.weights import weights_named

    begun_s = time.monotonic()  # making weights takes time, too
    require_named_target(save)
    shares = tuple(samples or ())
    for path in shares[:1]:
        require_named_target(path)
    unknown = sorted(set(defect or ()) - {one.id for one in CATALOGUE})
    if unknown:
        raise CaseError(
            f"No defect is called {', '.join(unknown)}; known are {', '.join(one.id for one in CATALOGUE)}."
        )
    name, tier = runner_and_tier(runner)
    if name != "native":
        raise RunnerError(f"--runner is {runner!r}; defects are put into native, in one of its tiers.")
    where, part = device_named(device), share_of(share)
    compute_on(threads, where)
    found = find_case(case)
    files, judged_by = weights_named(weights, where), limits or limits_path(root_of_limits(found.id))
    origin = {
        "weights": files.hash,
        "environment": measured_in(where),
        "case": case_document(found),
        "tier": tier,
        "limits": sha256_of(judged_by, RegistryError, "it holds the limits that judge"),
    }
    score = run(
        files,
        found,
        load_registry(judged_by),
        [one for one in CATALOGUE if not defect or one.id in defect],
        err.print,
        device=where,
        tier=tier,
        share=part,
        checkpoint=MutationCheckpoint(
            kept=shares[0] if shares else None,
            others=shares[1:],
            minutes=minutes,
            begun_s=begun_s,
            origin=origin if samples else {},
        ),
    )
    if save is not None:
        write_json_atomic(save, score.document())
    if json:
        out.document(score.document())
    else:
        _draw(score)
    return 0 if score.good else 1


def share_of(text: str) -> tuple[int, int]:
    """The share and the number of shares that a text such as 2/3 names. Raises: CaseError."""
    from runners.errors import CaseError

    found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise CaseError(f"--share is {text!r}; take K/N such as 2/3, the second of three shares.")
    return int(found[1]), int(found[2])


def _draw(score: "Score") -> None:
    rows = Table("defect", "component", "noticed by", "first metric", "place", "right", title="Known defects")
    for trial in score.trials:
        seen = trial.evidence
        levels = {"outputs": seen.by_outputs, "drift": seen.by_level("drift"), "isolation": seen.by_level("isolated")}
        noticed = ", ".join(name for name, yes in levels.items() if yes)
        first = next(iter((*seen.findings, *seen.metrics)), "-")
        verdict = "equivalent" if trial.equivalent else noticed or "SURVIVED"
        rows.add_row(
            trial.defect.id, trial.defect.component, verdict, first, seen.place or "-", "yes" if trial.located else "NO"
        )
    out.print(rows)
    counted = max(1, len(score.counted))
    kills = Table("judged by", "killed", "of", "rate", title="Kill rate")
    for name, count in (*score.kills_by_level().items(), *score.kills_by_metric().items()):
        kills.add_row(name, str(count), str(len(score.counted)), f"{100 * count / counted:.0f} %")
    out.print(kills)
    for alarm in score.false_alarms:
        what = ", ".join((*alarm.evidence.findings, *alarm.evidence.metrics)) or alarm.evidence.place
        out.print(f"FALSE ALARM: {alarm.id} ({alarm.case}): {what}", style="red")
    for trial in score.trials:
        if trial.equivalent:
            out.print(f"equivalent: {trial.defect.id}: {trial.defect.description}")
    if score.unreached:
        out.print(f"not reached by tier {score.tier}: {', '.join(score.unreached)}")
    if score.refused:
        out.print(f"refused by tier {score.tier}, which does not run with them: {', '.join(score.refused)}")
    if score.without_reference:
        out.print(f"not tried, for no golden is of these weights: {', '.join(score.without_reference)}")
    if score.without_limits:
        out.print(f"not tried, for their cases have no limits on this device: {', '.join(score.without_limits)}")
    located = sum(trial.located for trial in score.killed)
    out.print(
        f"{len(score.killed)} of {len(score.counted)} defects killed under the limits of {score.limits_of}, "
        f"{located} located; {sum(t.evidence.by_outputs for t in score.counted)} by outputs alone; "
        f"{len(score.trials) - len(score.counted)} equivalent; "
        f"{len(score.false_alarms)} false alarms in {len(score.harmless)} harmless runs",
        style="bold green" if score.good else "bold red",
    )
