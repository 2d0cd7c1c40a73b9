"""An explanation as at most ten lines that a person can act on, and as JSON data.

How many taps have the reference's bits, what is broken, where a run first departs, by how much more than harmless
noise, in which code, what it does to the result, and what to do next. The first line is `story`, which everything that
tells of a verdict that fails carries, word for word: the gate, suites, JUnit, annotations, the page.
"""

import math
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from parity.diff.comparison import Finding
from parity.explain.diagnosis import diagnosed_or_refused
from parity.explain.divergence import FirstDivergence
from parity.explain.explanation import Explanation, over
from parity.explain.matching_tap import MatchingTap
from parity.explain.oracle import tally
from parity.judge.gate import calibrated_floors
from parity.judge.verdict import Verdict
from parity.report.causes import cause_words
from parity.report.words import bound, number
from parity.runs.folder import Run
from parity.taps.module_path import diffusers_path
from parity.taps.name import Place, place_of

MOST_LINES: Final = 10
_NAMED_FINDINGS: Final = 3
_NAMED_INPUTS: Final = 2
_STAGE: Final = {
    "hidden": "text_encoding",
    "connector": "text_connector",
    "image": "image_conditioning",
    "init": "latent_preparation",
    "upsample": "upsampling",
    **dict.fromkeys(("x0", "guided", "latent"), "denoising"),
    "frames": "video_decoding",
    **dict.fromkeys(("mel", "waveform"), "audio_decoding"),
}


def story(found: Explanation | str, verdict: Verdict | str | None = None) -> str:
    """The first line: how many taps have the reference's bits, and where to look.

    Args:
        found: the diagnosis, or the reason why there is none.
        verdict: what a gate came to, where it was asked. If it fails and no tap departs, the line says what does.
    """
    if isinstance(found, str):
        return found
    said, bits = _bits(found), found.bits
    if bits.different and not found.bits_point:
        said += ", as may be where environments differ"
        if found.divergence.roots:
            said += f"; the first beyond harmless noise is `{found.divergence.roots[0].tap}`: look at {_look(found)}"
    elif bits.different:
        first = f"`{bits.firsts[0]}`"
        which = f"{first} alone differs" if bits.different == 1 else f"the first to differ is {first}"
        said += f"; {which}{_although(bits.equal_inputs)}: look at {_look_by_bits(found)}"
    beyond = _beyond(verdict) if isinstance(verdict, Verdict) and not found.divergence.roots else ""
    if not beyond:
        return said
    return f"{said}; no tap departs beyond harmless noise, yet {beyond}" if bits.different else f"{said}, yet {beyond}"


def first_place(found: Explanation | str) -> str:
    """The place of the first divergence and its size, for a headline; "" if there is none or nothing is known.

    It is the first tap beyond harmless noise, else the first with other bits where those are conclusive.
    """
    if isinstance(found, str):
        return ""
    if found.divergence.roots:
        root = found.divergence.roots[0]
        ratio = over(root.error, found.harmless[root.tap])
        size = "" if math.isnan(ratio) else f", {_times(ratio)} harmless noise" if ratio >= 1 else ", in its bits"
        return f"{place_of(root.tap).spot()}{size}"
    if found.bits.firsts and found.bits.conclusive:
        return f"{place_of(found.bits.firsts[0]).spot()}, in its bits"
    return ""


def cause_line(found: Explanation | str) -> str:
    """The cause in a sentence, for a heading: what to look at, and where; "" where nothing departs or is known."""
    place = first_place(found)
    if isinstance(found, str) or not place:
        return ""
    look = _look(found) if found.divergence.roots else cause_words(found.cause_by_bits, found.flow)
    return f"Look at {look}: first divergence at {place}."


def told_of_runs(
    reference: Run, candidate: Run, verdict: Verdict | str | None = None, isolated: Path | None = None
) -> tuple[str, str]:
    """The first line, as `story`, and the place of the first divergence, as `first_place`, of two runs."""
    floors = calibrated_floors(candidate)
    found = diagnosed_or_refused(reference, candidate, calibrated=floors, isolated=isolated)
    return story(found, verdict), first_place(found)


def story_of_runs(
    reference: Run, candidate: Run, verdict: Verdict | str | None = None, isolated: Path | None = None
) -> str:
    """The same of two runs, with the floors that a verdict of them is judged beside."""
    return told_of_runs(reference, candidate, verdict, isolated)[0]


def explanation_lines(
    found: Explanation, verdict: Verdict | str | None = None, case: str = "CASE", runs: str = ""
) -> tuple[str, ...]:
    """The lines, each whole; the last is a command to type next.

    Arguments as `story`, and for that command the id of the case, and the two runs as a verb is given them. Where
    nothing departs, the command needs these; a page, which shows them already, has none then.
    """
    lines = [story(found, verdict), *_findings(found.divergence.findings)]
    if found.divergence.roots:
        told = lines[0].endswith(f"look at {_look(found)}")
        code = [line for line in _code(found) if not (told and line.startswith("look at "))]
        lines += [departure_line(found), *_other_places(found), *_raised_input(found), *code, *_kernels(found)]
    lines += _rest(found)
    lines += [found.traces.left_out.words] if found.traces.left_out.taps else []
    lines += [*_ends(found), *_oracle(found), *_floors(found)]
    step = _next(found, case, runs)  # never cut off: it is what the reader came for
    return (*lines[: MOST_LINES - len(step)], *step)


def explanation_document(found: Explanation, verdict: Verdict | str | None = None) -> dict[str, Any]:
    """As JSON data, before numbers that JSON cannot hold are written as strings. Arguments as `story`."""
    divergence = found.divergence
    return {
        "bit_equal": found.bit_equal,
        "departs": divergence.departs,
        "lines": list(explanation_lines(found, verdict)),
        "bits": {key: value for key, value in asdict(found.bits).items() if key != "elsewhere"},
        "findings": [asdict(finding) for finding in divergence.findings],
        "roots": [
            {
                "tap": root.tap,
                "where": place_of(root.tap).words(),
                "relative_l2": root.error,
                "harmless": found.harmless[root.tap],
                "ratio": over(root.error, found.harmless[root.tap]),
                **{f"{side}_module": path for side, path in asdict(root.modules).items()},
            }
            for root in divergence.roots
        ],
        "compared": divergence.compared,
        "above": divergence.above,
        "inherited": divergence.inherited,
        "ends": {name: found.traces.errors[tap] for name, tap in found.ends.items()},
        "floors_by_rule": found.floors_by_rule,
        "floors_by_registry": found.floors_by_registry,
    }


def every_tap_document(found: Explanation, verdict: Verdict | str | None = None) -> dict[str, Any]:
    """The same with every tap's error."""
    traces = found.traces
    return {
        **explanation_document(found, verdict),
        "taps": {
            tap: {"relative_l2": diff.estimate, "low": diff.low, "high": diff.high, "bit_equal": diff.bit_equal}
            for tap, diff in traces.taps.items()
        },
        "taps_by_bits": dict(traces.by_bits),  # whether bits are equal, where a golden kept no sketch
        "left_out": asdict(traces.left_out),
    }


def departure_line(found: Explanation) -> str:
    """The first departure, by how much, in which passes; there must be a root."""
    first = found.divergence.roots[0]
    alike = [place for place in _places(found) if _spot(place) == _spot(place_of(first.tap))]
    passes = dict.fromkeys(str(place.guidance_pass) for place in alike if place.guidance_pass)
    head = f"first departs at {place_of(first.tap).words()}: {_sized(first, found)}"
    if len(alike) == 1 or not passes:
        return head
    count = len(found.flow.passes)
    if len(passes) == count > 1:
        return f"{head}; in all {count} passes"
    return f"{head}; in {len(passes)} of {count} passes ({', '.join(passes)})"


def _bits(found: Explanation) -> str:
    bits = found.bits
    missing = f", {bits.missing} missing" if bits.missing else ""
    if not bits.compared:
        return f"no tap was compared, so nothing is known{missing}"
    if bits.different or bits.missing:
        return f"{bits.equal} of {bits.compared + bits.missing} taps equal in every bit{missing}"
    if found.bit_equal:
        return f"all {bits.compared} taps are equal in every bit"
    return f"the {bits.compared} taps that could be compared are equal in every bit"


def _although(inputs: tuple[str, ...]) -> str:
    if not inputs:
        return ""
    if len(inputs) <= _NAMED_INPUTS:
        named = " and ".join(f"`{tap}`" for tap in inputs)
        return f" although its input{'s' if len(inputs) > 1 else ''} {named} {'are' if len(inputs) > 1 else 'is'} equal"
    return f" although its {len(inputs)} inputs are equal"


def _beyond(verdict: Verdict) -> str:
    """The failure of a verdict: the metric farthest beyond its limit, else the first failure; empty if nothing does."""
    failed = verdict.failed_rows()
    if failed:
        worst = max(failed, key=lambda row: row.used)
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"{worst.metric} is {number(worst.value, worst.unit)}, wanted {bound(worst)}: beyond its limit{more}"
    if verdict.outcome != "parity" and verdict.failures:
        first = verdict.failures[0]
        more = f" (and {len(verdict.failures) - 1} more)" if len(verdict.failures) > 1 else ""
        return f"{first.code} in {first.where}{more}"
    return ""


def _look_by_bits(found: Explanation) -> str:
    """The same as `_look` of the tap that differs first in its bits."""
    roots = found.divergence.roots
    if roots and roots[0].tap == found.bits.firsts[0]:
        return _look(found)
    return cause_words(found.cause_by_bits, found.flow)


def _places(found: Explanation) -> list[Place]:
    return [place_of(root.tap) for root in found.divergence.roots]


def _spot(place: Place) -> tuple[object, ...]:
    """A place in whatever pass."""
    return place.step, place.block, place.stream, place.part


def _findings(findings: tuple[Finding, ...]) -> list[str]:
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


def _other_places(found: Explanation) -> list[str]:
    _, *others = dict.fromkeys(place.what() for place in _places(found))
    more = f" and {len(others) - 2} more places" if len(others) > 2 else ""
    return [f"departs on its own, too: {'; '.join(others[:2])}{more}"] if others else []


def _raised_input(found: Explanation) -> list[str]:
    tap = found.raised_input
    if tap is None:
        return []
    size = _times(found.times_harmless(tap))
    return [f"it may begin before that, at {place_of(tap).words()}: {size} harmless noise, too little to be sure"]


def _look(found: Explanation) -> str:
    """The place to look at, of the first root."""
    look = cause_words(found.cause, found.flow)
    if found.matching is None:
        return look
    # Another pass's value is a question of what this pass was given; any other is exchanged.
    here, there = place_of(found.divergence.roots[0].tap), place_of(found.matching.tap)
    same = (there.block, there.step) == (here.block, here.step)
    held = _held(found.matching)
    return f"{look}; it holds {held}" if same else f"how it comes to hold {held}"


def _code(found: Explanation) -> list[str]:
    """The cause, and its place in both implementations."""
    first, look = found.divergence.roots[0], _look(found)
    modules = first.modules
    weights = f", weights {modules.weights}" if modules.weights else ""
    theirs = f"diffusers: {diffusers_path(first.tap)}" if found.runner == "diffusers" else f"native: {modules.native}"
    return [f"look at {look}", f"{theirs}{weights}", f"official: {modules.official}"]


def _held(matching: MatchingTap) -> str:
    """The tap that this one holds instead of its own: "what the reference has at step 2, ... (to the bit)"."""
    how = "to the bit" if math.isinf(matching.nearer) else f"{matching.nearer:.0f}x nearer than its own"
    return f"what the reference has at {place_of(matching.tap).words()} ({how})"


def _sized(root: FirstDivergence, found: Explanation) -> str:
    if root.tap in found.traces.by_bits:
        return "other bits, by how much is not known: the golden keeps no sketch of it"
    if math.isnan(root.error):
        return "no number could be computed"
    dtypes = found.traces.taps[root.tap].dtypes
    cast = f"{dtypes[0]} in the reference, {dtypes[1]} here; " if dtypes else ""
    if root.error == 0:
        return f"{cast}other bits, but no difference that a sketch can see (signs of zero, or a dtype)"
    harmless = found.floors.of(root.tap)
    return f"{cast}relative L2 {root.error:.2g}, {_times(over(root.error, harmless))} harmless noise ({harmless:.2g})"


def _kernels(found: Explanation) -> list[str]:
    """Two kernels are as far apart as many bugs, so where runs differ, whoever looks for a bug wants to know."""
    if not found.kernels:
        return []
    first, *others = found.kernels
    more = f" (and {len(others)} more)" if others else ""
    return [
        f"torch took another kernel for attention of {first.key}: {first.old} in the reference, {first.new} here{more}"
    ]


def _rest(found: Explanation) -> list[str]:
    divergence, traces = found.divergence, found.traces
    if divergence.roots:
        if not divergence.inherited:
            return ["nothing after it departs"]
        share = f"{divergence.inherited} of {divergence.compared}"
        return [f"{share} taps after it exceed what is allowed and may all inherit it"]
    if not traces.bit_different or not traces.errors:
        return []
    worst = max(traces.errors, key=lambda tap: over(traces.errors[tap], found.floors.bound(tap)))
    return [
        f"nothing departs beyond harmless noise in {divergence.compared} taps; the worst is "
        f"{place_of(worst).words()}: {_times(found.times_harmless(worst))} harmless noise"
    ]


def _ends(found: Explanation) -> list[str]:
    errors = {name: found.traces.errors[tap] for name, tap in found.ends.items()}
    if all(error == 0 for error in errors.values()):
        return []
    sizes = [
        f"{name} {errors[name]:.2g} ({_times(found.times_harmless(tap))} harmless)" for name, tap in found.ends.items()
    ]
    return [f"in the end, relative L2: {', '.join(sizes)}"]


def _oracle(found: Explanation) -> list[str]:
    if found.arbitrations is None:
        return []
    count = tally(found.arbitrations)
    ratios = sorted(one.ratio for one in found.arbitrations.values() if math.isfinite(one.ratio))
    middle = f", median ratio {ratios[len(ratios) // 2]:.2f}" if ratios else ""
    undecided = f", {count.undecided} undecided" if count.undecided else ""
    return [
        f"by the oracle: candidate nearer at {count.candidate} taps, official at {count.official}, "
        f"alike at {count.neither}{undecided}{middle}"
    ]


def _floors(found: Explanation) -> list[str]:
    if not found.divergence.roots:
        return []
    by_rule, by_registry, compared = found.floors_by_rule, found.floors_by_registry, len(found.traces.errors)
    if by_rule:
        which = "everywhere" if by_rule == compared else f"at {by_rule} of {compared} taps"
        return [f"harmless noise is by rule {which}, not measured; measure it with `parity amplify`"]
    if by_registry:
        which = "" if by_registry == compared else f" at {by_registry} of {compared} taps"
        return [f"harmless noise is the registry's, the worst in each group of taps of this case{which}"]
    return ["harmless noise is as measured in the file of floors"]


def _next(found: Explanation, case: str, runs: str) -> list[str]:
    if not found.divergence.roots:
        return (
            [f"next: `parity gate {runs}` judges it, `parity report {runs} --out page.html` draws it"] if runs else []
        )
    tap = found.divergence.roots[0].tap
    if found.runner != "native":
        taps = f"--taps {shlex.quote(tap.rpartition('/')[0] + '/*')} --keep full"
        return [
            f"next: `parity run --runner FILE.py:CLASS --case {case} --weights DIR {taps} --out full` and the same of "
            "the reference (`--runner official --out full_ref`), then `parity diff full_ref full` on whole tensors"
        ]
    place = place_of(tap)
    if found.tier != "exact" and place.block is not None:
        at = f"native:{found.tier} --case {case} --weights DIR --taps '*/{place.stream}/{place.part}'"
        return [f"next: `parity admit {at}` holds that operation to float64 beside the official one"]
    what = f"--stage {_STAGE[place.part]}" if place.block is None else f"--block {place.block}"
    step = "" if place.step is None else f" --steps {place.step}"
    return [f"next: `parity isolate {case} --weights DIR {what}{step}` for the error it adds by itself"]


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2g}x"
