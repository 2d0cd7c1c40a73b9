"""The gate: two runs compared as they are judged, and judged, by what the project holds.

    gate(reference, candidate) -> Verdict

It is `compare_as_judged`, then `judge_numbers`; who shows numbers where no verdict can be reached calls the two. Saved
numbers are judged by the second alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from parity.diff.comparable import side_of
from parity.diff.comparison import NO_TRACE, Comparison, Finding, Side, Sides
from parity.diff.metric import BIT_EQUALITIES
from parity.diff.outputs import compare_outputs, compare_reduced
from parity.diff.runs import RunsDiff, compare_runs, reduced_of, subset_of, subset_of_case, subset_phrase
from parity.identify.releases import Follows, follows_another
from parity.judge.document import naming
from parity.judge.registry import WANTED, device_of, load_registry, root_of_limits
from parity.judge.rules import judge
from parity.judge.strength import KIND_OF_FORM, load_strength
from parity.judge.verdict import Profile, Verdict
from parity.runs.encoding import Encoding
from parity.runs.environment import fingerprint
from parity.runs.folder import Run, RunManifest, RunOutputs
from parity.runs.golden import find_case, goldens_of_request, has_golden
from parity.runs.places import (
    case_root,
    foreign_root,
    form_limits_path,
    form_mutation_path,
    limits_path,
    mutation_path,
)
from parity.runs.reduced import reduce_outputs
from runners.errors import CaseError, ParityError, RegistryError
from runners.names import TAPS_OWED


@dataclass(frozen=True, kw_only=True)
class ComparisonInMemory(Comparison):
    """A comparison of outputs that are of no run with those of one."""

    reference: Side

    @property
    def sides(self) -> Sides:
        """The reference; outputs in memory say nothing of themselves."""
        return Sides(reference=self.reference)


def gate(
    reference: Run, candidate: Run | RunOutputs, *, isolated: Path | None = None, profile: Profile | None = None
) -> Verdict:
    """Judge a candidate.

    Args:
        reference: run taken as true.
        candidate: run under test, or its outputs in memory, which are judged by limits unless `profile` says otherwise.
        isolated: what `parity isolate --out` left of the candidate, to be judged as well.
        profile: "exact" for equal bits, "limits" for the registry; None takes what `profile_of` says.
    Raises: RunError as `compare_runs`, RegistryError as `judge_numbers`.
    """
    if isinstance(candidate, RunOutputs):
        return judge_numbers(compare_in_memory(reference, candidate, profile or "limits"), profile)
    return judge_numbers(compare_as_judged(reference, candidate, isolated, profile), profile)


def profile_of(found: Comparison) -> Profile:
    """The rule a run is judged by: the exact tier by bit equality with an official run of the same environment.

    In another environment the official code itself may have other bits, so limits hold there; bits that are equal all
    the same need no limit, whatever was measured where. Any other tier or runner is judged by limits everywhere, and so
    are outputs in memory, which name none.
    """
    if not isinstance(found, RunsDiff):
        return "limits"
    exact = of_exact_tier(found.candidate)
    return "exact" if exact and (not found.environment or has_every_bit(found)) else "limits"


def has_every_bit(found: Comparison) -> bool:
    """True if outputs, and taps where they were compared, have the reference's bits, and nothing is missing."""
    equal = all(found.metrics.get(name) == 1.0 for name in BIT_EQUALITIES)
    return equal and not found.findings and not found.metrics.get("taps.bit_different")


def compare_as_judged(
    reference: Run, candidate: Run, isolated: Path | None = None, profile: Profile | None = None
) -> RunsDiff:
    """Compare two runs as they are judged: by everything where bits decide, by what limits were measured on elsewhere.

    Limits of a case with a reduced golden are those of key frames, small frames and some taps. All frames and all taps
    of two whole runs are another population, and the worst of them is worse.
    """
    if reference.reduced or candidate.reduced or profile == "exact":
        return compare_runs(reference, candidate, isolated)
    by_bits = None
    if profile is None and of_exact_tier(candidate.manifest):
        by_bits = compare_runs(reference, candidate, isolated)
        if profile_of(by_bits) == "exact":
            return by_bits
    if candidate.imported is not None and not candidate.imported.encoding.lossless:
        return compare_runs(reference, candidate, isolated)  # its limits are of all frames
    subset = subset_of_case(reference.case_id)
    if by_bits is not None and subset is None:
        return by_bits
    return compare_runs(reference, candidate, isolated, subset=subset)


def compare_in_memory(reference: Run, outputs: RunOutputs, profile: Profile) -> Comparison:
    """Compare outputs in memory; reduced first, where the reference is, or where limits hold for what is."""
    subset = subset_of(reference) or (subset_of_case(reference.case_id) if profile == "limits" else None)
    if subset is not None:
        old = reduced_of(reference, subset.box_px)
        found = compare_reduced(old, reduce_outputs(outputs, old.box_px))
    else:
        found = compare_outputs(reference.outputs(), outputs)
    return ComparisonInMemory(
        case=reference.case_id,
        reference=side_of(reference),
        metrics=found.metrics,
        findings=found.findings,
        environment_of_candidate=fingerprint(outputs.video_frames.device),
        compared_on=subset_phrase(subset),
    )


def judge_numbers(found: Comparison, profile: Profile | None = None) -> Verdict:
    """Judge numbers by bit equality or by the registry's limits; None takes the rule that `profile_of` says.

    Raises: RegistryError if a limit is missing, or the limits were measured at another release than the runs follow,
        unless the numbers fail without a limit; and if one of the case does not follow from its samples.
    """
    profile = profile or profile_of(found)
    refused = _limits_of_another_release(found) if profile == "limits" and isinstance(found, RunsDiff) else ""
    lossy = bool(found.form) and not Encoding.of_label(found.form).lossless
    root = root_of_limits(found.case, found.form if lossy else "")
    path = form_limits_path(found.form, root) if lossy else limits_path(root)
    if lossy and not path.is_file():
        root = root_of_limits(found.case)
        path, refused = limits_path(root), refused or _no_limits_of_form(found)
    registry = None
    if profile == "limits":
        registry = load_registry(path)
        with naming(path, WANTED):
            registry.verify_case(found.case)
    counted = form_mutation_path(found.form, root) if lossy else mutation_path(root)
    strength = load_strength(counted, KIND_OF_FORM) if lossy else load_strength(counted)
    if isinstance(found, RunsDiff):
        found = replace(found, findings=(*found.findings, *_unsaid(found)))
    foreign = (profile == "limits" and foreign_root(root)) or _root_of_golden(found.case)
    verdict = judge(found, profile, registry, strength, refused=refused)
    return msgspec.structs.replace(verdict, root=str(foreign)) if foreign else verdict


def _root_of_golden(case_id: str) -> Path | None:
    """The root of a case's golden, where it is not what ships with this code; a case without one says nothing."""
    root = foreign_root(case_root(case_id))
    return root if root is not None and has_golden(case_id) else None


def _unsaid(found: RunsDiff) -> Iterable[Finding]:
    """A finding where numbers of a known runner, which owes every tap, do not say what became of them.

    A comparison of two runs says it. Numbers that were saved, and changed since, may not, and what is owed is decided
    by the table of runners, not by them.
    """
    runner, drift = found.candidate.runner, found.levels.get("drift", NO_TRACE)
    if not TAPS_OWED.get(runner):
        return
    if drift == NO_TRACE:
        why = "nothing says whether they were compared"
    elif drift.measured and "taps.bit_different" not in found.metrics:
        why = "it is not said how many have other bits"
    elif drift.measured and drift.without:
        why = f"{drift.without[0]} is said to be of none of them"
    else:
        return
    message = f"runner {runner!r} owes its taps, and {why}; compare the runs again"
    yield Finding(code="missing_trace", where="drift", message=message)


def verdict_or_reason(found: RunsDiff) -> Verdict | str:
    """The verdict, or why there can be none, for who goes on all the same."""
    try:
        return judge_numbers(found)
    except RegistryError as error:
        return str(error)


def verdict_of_runs(reference: Run, candidate: Run, isolated: Path | None = None) -> Verdict | str:
    """The same of two runs: also why they cannot be compared as they are judged."""
    try:
        return verdict_or_reason(compare_as_judged(reference, candidate, isolated))
    except ParityError as error:
        return str(error)


def calibrated_floors(run: Run) -> dict[str, tuple[float, float]]:
    """The registry's floor and limit of each group of taps where a run was made; none where there is no registry."""
    path = limits_path(root_of_limits(run.case_id))
    if not path.is_file():
        return {}
    return load_registry(path).floors_of(run.case_id, device_of(run.manifest.environment))


def other_release(reference: Run, candidate: Run) -> Follows | None:
    """The golden of another release that a candidate is at parity with, or far nearer to; None if none is known."""
    try:
        return follows_another(candidate, reference, goldens_of_request(candidate))
    except ParityError:  # what cannot be told here must not hide the verdict
        return None


def of_exact_tier(candidate: Side | RunManifest) -> bool:
    """True for a run that is to have an official run's bits, where both were made in one environment."""
    return candidate.runner in ("native", "official") and candidate.tier == "exact"


def _no_limits_of_form(found: Comparison) -> str:
    return (
        f"No limits were measured through {found.form}, the form of the candidate's outputs, so nothing can be judged. "
        f"Measure them: `parity calibrate --case {found.case} --weights W --form {found.form}`; or give frames as PNGs "
        "and sound as a WAV file, which lose nothing."
    )


def release_of_limits(case_id: str) -> str | None:
    """The release at which limits of a case hold, which its file names; None for a case that lies elsewhere."""
    try:
        return find_case(case_id).reference
    except CaseError:
        return None


def _limits_of_another_release(found: RunsDiff) -> str:
    """The reason that limits of a case do not hold, if its file names another release. A case moves with its limits."""
    follows, named = found.reference.reference, release_of_limits(found.case)
    if named in (None, follows):
        return ""
    return (
        f"Limits of case {found.case!r} hold at release {named}, which its file names; the runs follow {follows}. "
        f"Take a case of {follows}, or move this one: `parity bless RUN --reference {follows} --weights W`."
    )
