"""`parity identify`: which official release a run follows, which switches differ, and what neither explains.

The run may come from any engine; only its manifest, outputs and trace are read. What the engine says of its own release
is the place to start from, no more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import torch
from torch import Tensor

from parity.identify.behaviours import OF_RELEASES, SITES, nearest_release, setting_of
from parity.identify.replay import Replay
from parity.identify.run_tensors import AUDIO_LATENT, FED_PARTS, VIDEO_LATENT, RunTensors
from parity.identify.search import BehaviourDecision, RunUnderTest, Search
from parity.runs.difference import Difference
from parity.runs.environment import differences, fingerprint
from parity.runs.folder import TENSORS_FILE, TRACE_FILE, Run
from parity.taps.dataflow import Dataflow
from parity.taps.name import is_tap, place_of
from parity.trace.file import Trace
from parity.trace.sketch import DEFAULT_BUCKETS, TapSketch, sketch
from runners.case import Case
from runners.closed_input import closed_input
from runners.errors import RunError
from runners.files import opened_tensors
from runners.protocol import DTYPES, RunOptions
from runners.releases import RELEASES
from runners.repeatable import repeatable_kernels
from runners.weights import Weights, num_blocks

SCHEMA_VERSION: Final = 1
Confidence = Literal["certain", "likely", "partial"]
JUMP: Final = 10.0  # times what enters it, a tap's error is more than inherited
OUTPUT_LATENTS: Final = (VIDEO_LATENT, AUDIO_LATENT)
_PARTS_OF_DENOISING: Final = ("first_block", "passes", "guided", "skipping")


@dataclass(frozen=True, kw_only=True)
class UnexplainedTap:
    """A tap that departs from the best explanation while nothing it is computed from does, or by far more than that."""

    tap: str
    error: float  # relative L2
    entering: float  # largest error of what it is computed from; 0 where nothing departs or the run's own stood in


@dataclass(frozen=True, kw_only=True)
class Identification:
    """The best explanation of a run, and how good it is."""

    run: str
    run_sha256: str  # of its run.json
    case: str
    declared: str  # what the run says of itself
    release: str
    alike: tuple[str, ...]  # releases that differ from this one in nothing that was told
    decisions: Mapping[str, BehaviourDecision]  # every switch, and the defects of ports that were found
    unexplained: tuple[UnexplainedTap, ...]  # data-flow order
    compared: int  # taps and outputs held against the native model at the setting found
    equal: int  # of those, how many in every bit
    outputs: int  # of those, how many are outputs that have no tap
    traced: bool
    whole: int  # taps that the run kept whole, which were put in place of ours
    dtypes: tuple[Difference, ...]  # of groups of taps that the run has in another dtype than the native model
    strangers: tuple[str, ...]  # taps of the trace that are none of LTX-2.3's
    environment: tuple[Difference, ...]  # from this machine, that can change bits
    computed: int  # parts of the model that were run for the answer
    padded_text: bool = False  # whether its text taps were not read, since they hold padding, as older traces do

    @property
    def switches(self) -> tuple[BehaviourDecision, ...]:
        """The switches told to be otherwise than in the release."""
        wanted = setting_of(self.release)
        return tuple(
            one
            for name, one in self.decisions.items()
            if one.switch.defect is None and one.verdict in ("certain", "likely") and one.on != (name in wanted)
        )

    @property
    def defects(self) -> tuple[BehaviourDecision, ...]:
        """The defects of ports that explain what no switch does."""
        return tuple(one for one in self.decisions.values() if one.switch.defect is not None)

    @property
    def untold(self) -> tuple[BehaviourDecision, ...]:
        """Switches that this run cannot tell."""
        return tuple(one for one in self.decisions.values() if one.verdict in ("undecided", "idle"))

    @property
    def confidence(self) -> Confidence:
        """Certain: every bit is explained. Likely: every switch that matters here is told. Partial: some are not."""
        if self.equal == self.compared and not self.unexplained:
            return "certain"
        return "partial" if any(one.verdict == "undecided" for one in self.decisions.values()) else "likely"


def identify(
    run: Run, case: Case, weights: Weights, device: torch.device, say: Callable[[str], None] = lambda _: None
) -> Identification:
    """Say which release a run follows and which switches differ.

    Args:
        run: with whole outputs or a trace; whole taps are used where there are any.
        case: the run's own, its pictures in their place.
        weights: those of the run.
        device: where to compute the native model.
        say: told each site that is looked at.
    Raises: RunError if the weights are others, the dtype is none of ours, or the run is reduced and has no trace; else
        as the native runner does.
    """
    manifest, weights = run.manifest, weights.of_pipeline(case.pipeline)
    unsaid = run.imported is not None and not manifest.weights_hash
    if weights.hash != manifest.weights_hash and not unsaid:
        raise RunError(
            f"{run.folder} was run with weights {manifest.weights_hash[:12]}, given are {weights.hash[:12]}; pass the "
            "run's own with --weights."
        )
    if manifest.dtype not in DTYPES:
        raise RunError(f"{run.folder} was run in {manifest.dtype}; the native model runs in {' or '.join(DTYPES)}.")
    outputs = None if run.reduced else run.outputs()
    trace: Trace | None = run.trace if run.has(TRACE_FILE) else None
    if outputs is None and trace is None:
        raise RunError(f"{run.folder} holds reduced outputs and no trace; fetch the whole run with `parity fetch`.")
    padded = trace is not None and trace.padded_text
    whole = _whole(run, padded_text=padded) if run.has(TENSORS_FILE) else {}
    buckets = DEFAULT_BUCKETS if trace is None else trace.buckets
    seen = {name: trace[name] for name in trace if _readable(name, padded)} if trace is not None else {}
    if outputs is not None:
        for name, tensor in {
            "decode/frames": outputs.video_frames,
            "decode/waveform": outputs.audio_waveform,
            VIDEO_LATENT: outputs.video_latent,
            AUDIO_LATENT: outputs.audio_latent,
        }.items():
            if tensor is not None and name not in seen:
                seen[name] = sketch(tensor, buckets=buckets)
    own = RunTensors(
        video_latent=None if outputs is None else outputs.video_latent,
        audio_latent=None if outputs is None else outputs.audio_latent,
        taps=whole,
    )
    replay = Replay(weights, case, RunOptions(device=device, dtype=DTYPES[manifest.dtype]), own, buckets)
    observed = RunUnderTest(taps=seen, pattern=trace.pattern if trace else None, traced=trace is not None)
    flow = _flow(case, weights)
    stood_in = frozenset(whole) if outputs is None else frozenset(whole) | frozenset(flow.final_latents.values())
    search = Search(
        replay,
        observed,
        case,
        manifest.dtype,
        say,
        lambda errors: [one.tap for one in _unexplained(errors, flow, stood_in)],
    )
    errors: dict[str, float] = {}
    ours: dict[str, TapSketch] = {}
    with closed_input(), repeatable_kernels(device, case.reference):  # as the run was made
        environment = fingerprint(device)
        setting, decisions = search.search()
        for site in SITES:
            if site not in _PARTS_OF_DENOISING:
                errors |= search.errors(site, setting)
                ours |= replay.taps(site, setting)
    counted = [name for name, one in decisions.items() if one.verdict in ("certain", "likely") and name in OF_RELEASES]
    release = nearest_release(setting, counted, case.reference)
    return Identification(
        run=str(run.folder),
        run_sha256=run.sha256,
        case=run.case_id,
        declared=manifest.reference,
        release=release,
        alike=tuple(
            other
            for other in RELEASES
            if other != release and not (setting_of(other) ^ setting_of(release)) & frozenset(counted)
        ),
        decisions=decisions,
        unexplained=_unexplained(errors, flow, stood_in),
        compared=len(errors),
        outputs=sum(name in OUTPUT_LATENTS for name in errors),
        equal=sum(error == 0 for error in errors.values()),
        traced=trace is not None,
        whole=len(whole),
        dtypes=_dtypes(ours, seen),
        strangers=() if trace is None else tuple(name for name in trace if not is_tap(name)),
        environment=tuple(differences(manifest.environment, environment)),
        padded_text=padded,
        computed=replay.computed,
    )


def _readable(name: str, padded_text: bool) -> bool:
    """True if a tap is one of ours, and not a prompt with the padding that older traces hold in it."""
    return is_tap(name) and not (padded_text and place_of(name).part == "hidden")


def _whole(run: Run, *, padded_text: bool) -> dict[str, Tensor]:
    """The whole taps that can stand in for ours. Raises: RunError if the file cannot be read."""
    held = run.file(TENSORS_FILE)
    with opened_tensors(held, RunError, "the run is damaged", max_bytes=run.most_bytes(TENSORS_FILE)) as file:
        names = [
            name
            for name in file.keys()  # noqa: SIM118
            if _readable(name, padded_text) and place_of(name).part in FED_PARTS
        ]
        return {name: file.get_tensor(name) for name in names}


def _flow(case: Case, weights: Weights) -> Dataflow:
    """Every tap that the case may leave; 1.0.0 leaves the most."""
    return Dataflow(msgspec.structs.replace(case, reference=next(iter(RELEASES))), num_blocks(weights))


def _unexplained(errors: Mapping[str, float], flow: Dataflow, fed: frozenset[str]) -> tuple[UnexplainedTap, ...]:
    departed: dict[
        str, float
    ] = {}  # what departs or is computed from something that does, unless the run's own stood in
    found = []
    for tap in flow.taps:
        error = errors.get(tap, 0.0)
        inputs = flow.inputs_of(tap)
        inherits = any(name in departed for name in inputs)
        entering = max((departed.get(name, 0.0) for name in inputs), default=0.0)
        place = place_of(tap)
        gain = flow.guidance_gain(place.stream) if place.part == "guided" and place.stream else 1.0
        if error > 0 and (not inherits or 0 < entering * gain * JUMP < error):
            found.append(UnexplainedTap(tap=tap, error=error, entering=entering))
        if (inherits or error > 0) and tap not in fed:
            departed[tap] = error
    if not any(one.tap.startswith("denoise/") or one.tap in departed for one in found):
        found += [
            UnexplainedTap(tap=tap, error=errors[tap], entering=0.0)
            for tap in OUTPUT_LATENTS
            if errors.get(tap, 0.0) > 0
        ]
    return tuple(found)


def _dtypes(ours: Mapping[str, TapSketch], theirs: Mapping[str, TapSketch]) -> tuple[Difference, ...]:
    """Groups of taps that the run has in another dtype."""
    groups: dict[tuple[str, str], list[str]] = {}
    for tap, sketched in ours.items():
        if tap in theirs and theirs[tap].dtype != sketched.dtype:
            name = tap if tap in OUTPUT_LATENTS else place_of(tap).part
            groups.setdefault((sketched.dtype, theirs[tap].dtype), []).append(name)
    return tuple(
        Difference(key=", ".join(dict.fromkeys(names)), old=old, new=new) for (old, new), names in groups.items()
    )
