"""What a person can act on, in at most ten lines: what is broken, where a run first departs, by how much more than
harmless noise, in which code, what it does to the result, and what to do next."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from parity.diff.finding import Finding
from parity.diff.traces import TraceDiff
from parity.explain.divergence import Divergence, Root, first_divergence
from parity.explain.floors import Floors
from parity.explain.hints import likely_cause, passes_said
from parity.explain.oracle import Arbitration, tally
from parity.explain.twin import Twin
from parity.taps.dataflow import Dataflow
from parity.taps.module_path import diffusers_path
from parity.taps.name import place_of

MOST_LINES: Final = 10
_NAMED_FINDINGS: Final = 3
_ALSO_RAISED: Final = 0.5  # an input this near to a root's ratio of error to floor may be where it begins
_ENDS: Final = {
    "video latent": "denoise/{last:03d}/latent/video",
    "audio latent": "denoise/{last:03d}/latent/audio",
    "frames": "decode/frames",
    "waveform": "decode/waveform",
}
_STAGE: Final = {
    "hidden": "text_encoding",
    "connector": "text_connector",
    "image": "image_conditioning",
    "init": "latent_preparation",
    **dict.fromkeys(("x0", "guided", "latent"), "denoising"),
    "frames": "video_decoding",
    **dict.fromkeys(("mel", "waveform"), "audio_decoding"),
}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A diagnosis: lines for people, everything else for machines."""

    lines: tuple[str, ...]
    divergence: Divergence
    harmless: dict[str, float]  # floor of each root, relative L2
    ends: dict[str, float]  # relative L2 of final latents, frames and waveform
    floors_by_rule: int
    floors_by_registry: int
    bit_equal: bool

    def document(self) -> dict[str, Any]:
        """As JSON data, before numbers that JSON cannot hold are written as strings."""
        found = self.divergence
        return {
            "bit_equal": self.bit_equal,
            "departs": found.departs,
            "lines": list(self.lines),
            "findings": [asdict(finding) for finding in found.findings],
            "roots": [
                {
                    "tap": root.tap,
                    "where": root.words,
                    "relative_l2": root.error,
                    "harmless": self.harmless[root.tap],
                    "ratio": _ratio(root.error, self.harmless[root.tap]),
                    **{f"{side}_module": path for side, path in asdict(root.modules).items()},
                }
                for root in found.roots
            ],
            "compared": found.compared,
            "above": found.above,
            "inherited": found.inherited,
            "ends": self.ends,
            "floors_by_rule": self.floors_by_rule,
            "floors_by_registry": self.floors_by_registry,
        }


def explain(
    diff: TraceDiff,
    flow: Dataflow,
    floors: Floors,
    *,
    bits_expected: bool,
    arbitrations: Mapping[str, Arbitration] | None = None,
    twin: Callable[[str], Twin | None] | None = None,
    runner: str = "native",
    kernels: Sequence[str] = (),
) -> Explanation:
    """Diagnose a run.

    Args:
        diff: its trace against the reference's.
        flow: the case's taps.
        floors: how far harmless noise may carry each tap.
        bits_expected: whether the two should agree in every bit (the exact tier in the reference's environment); then
            the first bit that differs is the divergence, and floors only say how large it is.
        arbitrations: the taps before an oracle, where there is one.
        twin: which other tap of the reference the candidate holds at a tap, if any.
        runner: of the candidate: native has `parity isolate` to go on with, and diffusers modules of its own.
        kernels: calls of attention that torch gave to another kernel than in the reference, each as one phrase.
    """

    def bits(tap: str) -> float:
        """Other bits exceed what is allowed even where a sketch sees no difference: signs of zero, another dtype."""
        return 0.0 if diff.same_bits(tap) else -1.0

    errors: Mapping[str, float] = diff.errors
    if bits_expected:
        errors = {**errors, **{tap: 0.0 if same else math.nan for tap, same in diff.by_bits.items()}}
    found = first_divergence(errors, bits if bits_expected else floors.bound, flow, recorded=diff.recorded)
    findings = _merged(diff.findings, found.findings)
    found = Divergence(
        findings=findings, roots=found.roots, compared=found.compared, above=found.above, inherited=found.inherited
    )
    ends = {
        name: diff.errors[tap]
        for name, pattern in _ENDS.items()
        if (tap := pattern.format(last=flow.steps - 1)) in diff.errors
    }
    by_rule, by_registry = floors.by_rule(diff.errors), floors.by_registry(diff.errors)
    lines = [
        *_findings_said(findings),
        *_roots_said(found, diff, flow, floors, twin, runner),
        *_kernels_said(found, kernels),
        *_rest_said(found, diff, floors),
        *([diff.left_out.words] if diff.left_out.taps else []),
        *_ends_said(ends, flow, floors),
        *_oracle_said(arbitrations),
        *_floors_said(found, by_rule, by_registry, len(diff.errors)),
    ]
    step = _next_said(found, runner)  # never cut off: it is what the reader came for
    return Explanation(
        lines=(*lines[: MOST_LINES - len(step)], *step),
        divergence=found,
        harmless={root.tap: floors.of(root.tap) for root in found.roots},
        ends=ends,
        floors_by_rule=by_rule,
        floors_by_registry=by_registry,
        bit_equal=diff.bit_equal,
    )


def _merged(*several: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """All findings, each code and place once: traces say on which side a tap is missing, and say it first."""
    merged: dict[str, Finding] = {}
    for finding in (finding for findings in several for finding in findings):
        kind = "coverage" if finding.code in ("missing_tensor", "extra_tensor", "empty") else finding.code
        merged.setdefault(
            f"{kind} {finding.where} {finding.message if kind == 'environment_mismatch' else ''}", finding
        )
    return tuple(merged.values())


def _findings_said(findings: tuple[Finding, ...]) -> list[str]:
    first = {finding.code: finding for finding in reversed(findings)}
    counts = Counter(finding.code for finding in findings)
    codes = list(dict.fromkeys(finding.code for finding in findings))
    lines = [
        f"{code} at {first[code].where}: {first[code].message}"
        + (f" (and {counts[code] - 1} more)" if counts[code] > 1 else "")
        for code in codes[:_NAMED_FINDINGS]
    ]
    if len(codes) > _NAMED_FINDINGS:
        lines[-1] += f"; also {', '.join(codes[_NAMED_FINDINGS:])}"
    return lines


def _roots_said(
    found: Divergence,
    diff: TraceDiff,
    flow: Dataflow,
    floors: Floors,
    twin: Callable[[str], Twin | None] | None,
    runner: str,
) -> list[str]:
    if not found.roots:
        return []
    first = found.roots[0]
    places = [place_of(root.tap) for root in found.roots]
    alike = [
        place
        for place in places
        if (place.step, place.block, place.stream, place.part)
        == (places[0].step, places[0].block, places[0].stream, places[0].part)
    ]
    others = list(dict.fromkeys(place.what() for place in places if place.what() != places[0].what()))
    passes = passes_said(alike, flow)
    head = f"first departs at {first.words}: {_sized(first, diff, floors)}"
    if passes and len(alike) > 1:
        head += f"; {passes}"
    lines = [head]
    if others:
        more = f" and {len(others) - 2} more places" if len(others) > 2 else ""
        lines.append(f"departs on its own, too: {'; '.join(others[:2])}{more}")
    before = _raised_before(first, diff, flow, floors)
    if before:
        lines.append(before)
    modules, other = first.modules, None if twin is None else twin(first.tap)
    look = likely_cause(places, flow)
    if other is not None:  # another pass's value is a question of what this pass was given; any other is exchanged
        same = place_of(other.tap).block == places[0].block and place_of(other.tap).step == places[0].step
        look = f"{look}; it holds {other.words}" if same else f"how it comes to hold {other.words}"
    weights = f", weights {modules.weights}" if modules.weights else ""
    theirs = f"diffusers: {diffusers_path(first.tap)}" if runner == "diffusers" else f"native: {modules.native}"
    return [
        *lines,
        f"look at {look}",
        f"{theirs}{weights}",
        f"official: {modules.official}",
    ]


def _sized(root: Root, diff: TraceDiff, floors: Floors) -> str:
    if root.tap in diff.by_bits:
        return "other bits, by how much is not known: the golden keeps no sketch of it"
    if math.isnan(root.error):
        return "no number could be computed"
    dtypes = diff.taps[root.tap].dtypes
    cast = f"{dtypes[0]} in the reference, {dtypes[1]} here; " if dtypes else ""
    if root.error == 0:
        return f"{cast}other bits, but no difference that a sketch can see (signs of zero, or a dtype)"
    harmless = floors.of(root.tap)
    return f"{cast}relative L2 {root.error:.2g}, {_times(root.error, harmless)} harmless noise ({harmless:.2g})"


def _raised_before(root: Root, diff: TraceDiff, flow: Dataflow, floors: Floors) -> str:
    """The input of a root that is above its floor, too, if by less than is allowed: a small defect may begin there."""
    ratios = {tap: _ratio(diff.errors[tap], floors.of(tap)) for tap in flow.inputs_of(root.tap) if tap in diff.errors}
    worst = max(ratios, key=lambda tap: ratios[tap], default=None)
    own = _ratio(root.error, floors.of(root.tap))
    if worst is None or not ratios[worst] > max(1.0, _ALSO_RAISED * own):
        return ""
    size = _times(diff.errors[worst], floors.of(worst))
    return f"it may begin before that, at {place_of(worst).words()}: {size} harmless noise, too little to be sure"


def _kernels_said(found: Divergence, kernels: Sequence[str]) -> list[str]:
    """Two kernels are as far apart as many bugs, so where runs differ, whoever looks for a bug wants to know."""
    if not found.roots or not kernels:
        return []
    more = f" (and {len(kernels) - 1} more)" if len(kernels) > 1 else ""
    return [f"torch took another kernel for {kernels[0]}{more}"]


def _rest_said(found: Divergence, diff: TraceDiff, floors: Floors) -> list[str]:
    if found.roots:
        if not found.inherited:
            return ["nothing after it departs"]
        return [f"{found.inherited} of {found.compared} taps after it exceed what is allowed and may all inherit it"]
    if diff.bit_equal:
        return [f"all {diff.compared} taps are equal in every bit"]
    if not found.compared:
        return ["no tap was compared, so nothing is known"]
    if not diff.bit_different:
        return [f"the {found.compared} taps that could be compared are equal in every bit"]
    worst = max(diff.errors, key=lambda tap: _ratio(diff.errors[tap], floors.bound(tap)))
    return [
        f"nothing departs beyond harmless noise in {found.compared} taps; the worst is "
        f"{place_of(worst).words()}: {_times(diff.errors[worst], floors.of(worst))} harmless noise"
    ]


def _ends_said(ends: Mapping[str, float], flow: Dataflow, floors: Floors) -> list[str]:
    if all(error == 0 for error in ends.values()):
        return []
    said = []
    for name, error in ends.items():
        floor = floors.of(_ENDS[name].format(last=flow.steps - 1))
        said.append(f"{name} {error:.2g} ({_times(error, floor)} harmless)")
    return [f"in the end, relative L2: {', '.join(said)}"]


def _oracle_said(arbitrations: Mapping[str, Arbitration] | None) -> list[str]:
    if arbitrations is None:
        return []
    count = tally(arbitrations)
    ratios = sorted(one.ratio for one in arbitrations.values() if math.isfinite(one.ratio))
    middle = f", median ratio {ratios[len(ratios) // 2]:.2f}" if ratios else ""
    undecided = f", {count.undecided} undecided" if count.undecided else ""
    return [
        f"by the oracle: candidate nearer at {count.candidate} taps, official at {count.official}, "
        f"alike at {count.neither}{undecided}{middle}"
    ]


def _floors_said(found: Divergence, by_rule: int, by_registry: int, compared: int) -> list[str]:
    if not found.roots:
        return []
    if by_rule:
        which = "everywhere" if by_rule == compared else f"at {by_rule} of {compared} taps"
        return [f"harmless noise is by rule {which}, not measured; measure it with `parity amplify`"]
    if by_registry:
        which = "" if by_registry == compared else f" at {by_registry} of {compared} taps"
        return [f"harmless noise is the registry's, the worst in each group of taps of this case{which}"]
    return ["harmless noise is as measured in the file of floors"]


def _next_said(found: Divergence, runner: str) -> list[str]:
    if not found.roots:
        return []
    place = place_of(found.roots[0].tap)
    if runner != "native":
        pattern = found.roots[0].tap.rpartition("/")[0]
        return [
            f"next: `parity run ... --taps '{pattern}/*' --keep full` of both runners, and hold the tensors together"
        ]
    what = f"--stage {_STAGE[place.part]}" if place.block is None else f"--block {place.block}"
    step = "" if place.step is None else f" --steps {place.step}"
    return [f"next: `parity isolate CASE --weights DIR {what}{step}` for the error it adds by itself"]


def _ratio(error: float, floor: float) -> float:
    if math.isnan(error) or error == 0:
        return error
    return error / floor if floor > 0 else math.inf


def _times(error: float, floor: float) -> str:
    ratio = _ratio(error, floor)
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2g}x"
