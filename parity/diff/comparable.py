"""Two runs before any number of them: what each says of itself, and whether that allows a comparison.

They must be of one release, one request and one set of pictures. Other weights can be compared, and are what differs;
weights that nobody named cannot.

Every run carries a random id, and times that no other run has to the last bit. A run beside itself, its copy, its hard
links or its copy under another label would pass any gate, so it is a finding, and so is a label that contradicts the
other run's where the two are of one model: dtype, version and number of blocks. Goldens and runs made before there were
ids have none, and a copy may be given another. They are told by their times: end to end, of each stage and of each
step, as the clock gave them, in billionths of a second. Two runs share none of them, so one that is equal in one place
is enough. Rounded times tell nothing, nor do short ones, which meet by chance; GPU events are coarser than the clock,
so of their times two must be equal.

What a run says twice must be one thing. `decode/frames` and `decode/waveform` are what is handed back, and the state
after the last step is the final latent, as tokens. So the sketches of these taps can be worked out from the outputs,
and a run that took another's trace beside outputs of its own contradicts itself.

Axes: B batch, C channel, F frame, H row, W column, T token, M mel bin.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

import torch
from einops import rearrange
from torch import Tensor

from parity.diff.comparison import Finding, Side
from parity.runs.difference import Difference
from parity.runs.environment import differences
from parity.runs.folder import DATA_FILES, Run, RunManifest, RunOutputs
from parity.runs.reduced import ReducedOutputs
from parity.taps.dataflow import Dataflow
from parity.taps.name import place_of
from parity.trace.consistency import unlike_output
from parity.trace.file import Trace
from runners.errors import RunError
from runners.names import NAMES
from runners.protocol import CANDIDATE

# Official code that needs other versions of these than this project has. On a CPU they yield the same bits, which
# tests/runners/native/test_exact_tier_releases.py holds at every tap, so there they make no other environment.
OWN_PACKAGES: Final = {"1.2.0": ("transformers", "tokenizers")}
SIGMA_ROUNDING: Final = 1e-6  # levels are at most 1, where an operation in float32 rounds by 6e-8
SHORTEST_TOLD_S: Final = 0.01  # a time that scatters by 1 %, so over 100,000 billionths of a second
QUANTIZATION: Final = "quantization"  # key of a case
MOST_OF_A_VALUE: Final = 40  # characters of a prompt, say, in a message


def environment_differences(reference: Run, candidate: Run) -> list[Difference]:
    """The differences between the environments of two runs that can change bits."""
    old, new = reference.manifest, candidate.manifest
    on_cpu = old.environment.get("device") == new.environment.get("device") == "cpu"
    beside = old.runner == "official" and new.runner != "official" and on_cpu
    own = OWN_PACKAGES.get(old.reference, ()) if beside else ()
    return differences(old.environment, new.environment, without=own)


def require_comparable(reference: Run, candidate: Run) -> None:
    """Refuse two runs that are not of the same request and release, or of which one does not say its weights.

    Raises: RunError naming the first thing that differs; the release comes first, since it explains the rest.
    """
    old, new = reference.manifest, candidate.manifest
    both = f"{reference.folder} and {candidate.folder}"
    if old.reference != new.reference:
        raise RunError(
            f"Reference mismatch: {reference.folder} follows release {old.reference}, {candidate.folder} follows "
            f"{new.reference}. Run the candidate with --reference {old.reference}, or take a {new.reference} reference."
        )
    # How weights are kept makes another model of the same request, which `weights_findings` names.
    cases = [{**one.case, QUANTIZATION: None} for one in (old, new)]
    if cases[0] != cases[1]:
        raise RunError(
            f"{both} are runs of different cases: they differ in {_keys(*cases)}. Run both with the same case file."
        )
    if old.inputs != new.inputs:
        raise RunError(f"{both} were run with different pictures under the same name; run both from one case folder.")
    for run in (reference, candidate):
        if not run.manifest.weights_hash and run.imported is None:  # a verdict of an imported run says so
            raise RunError(f"{run.folder} does not say which weights it was run with; run it again.")


def require_same_weights(reference: Run, candidate: Run) -> None:
    """Refuse two runs of different weights, where nothing else can come of them. Raises: RunError."""
    for one in weights_findings(reference, candidate):
        raise RunError(f"{one.message}; run both on the same --weights, LoRAs and quantization.")


def flow_of(reference: Run, candidate: Run, trace: Trace | None) -> Dataflow:
    """The dataflow of the case of two runs, on as many blocks as either run says its model has.

    Of runs that say nothing, the reference's trace knows: a last block that it lacks is then not missed.

    Raises: RunError if the trace names no block although all taps were asked for, or a tap that is none, or if there is
        no trace to ask.
    """
    known = reference.manifest.num_blocks or candidate.manifest.num_blocks
    if known is not None:
        return Dataflow(reference.case, known)
    if trace is None:
        raise RunError(
            f"Neither {reference.folder} nor {candidate.folder} says how many blocks its model has; run again."
        )
    blocks = {block for tap in trace if "/block/" in tap and (block := place_of(tap).block) is not None}
    if not blocks and trace.pattern in (None, "*"):
        raise RunError(
            f"The trace in {reference.folder} has no taps of blocks, so the depth of the model cannot be told; "
            "record it with --taps '*'."
        )
    return Dataflow(reference.case, max(blocks, default=0) + 1)


def manifest_findings(reference: Run, candidate: Run) -> tuple[Finding, ...]:
    """Differences that no tap shows: other weights, other noise levels, or other rates of frames and samples."""
    old, new = reference.manifest, candidate.manifest
    found = [*weights_findings(reference, candidate), *sigma_findings(reference, candidate)]
    for where, unit in (("frame_rate", "frames"), ("sample_rate_hz", "samples")):
        rates = (getattr(old, where), getattr(new, where))
        if rates[0] != rates[1]:
            message = f"reference has {rates[0]:g}, candidate has {rates[1]:g} {unit} a second"
            found.append(Finding(code="rate_mismatch", where=where, message=message))
    return tuple(found)


def weights_findings(reference: Run, candidate: Run) -> tuple[Finding, ...]:
    """A finding for each way in which two runs name different weights; an imported run need not name any."""
    found = []
    old, new = reference.manifest, candidate.manifest
    kept = [one.case.get(QUANTIZATION) for one in (old, new)]
    if kept[0] != kept[1]:
        words = [f"as {quantization}" if quantization else "without quantization" for quantization in kept]
        message = f"{reference.folder} ran {words[0]}, {candidate.folder} {words[1]}; neither is the other's reference"
        found.append(Finding(code="quantization_mismatch", where=QUANTIZATION, message=message))
    pairs = {"weights": (old.weights_hash, new.weights_hash)}
    pairs |= {f"LoRA {name}": (old.loras.get(name, ""), new.loras.get(name, "")) for name in {**old.loras, **new.loras}}
    for what, (theirs, ours) in pairs.items():
        if theirs and ours and theirs != ours:
            message = f"{reference.folder} was run with {what} {theirs}, {candidate.folder} with {ours}"
            found.append(Finding(code="identity_mismatch", where="weights", message=message))
    return tuple(found)


def sigma_findings(reference: Run, candidate: Run) -> tuple[Finding, ...]:
    """True if both runs followed one noise schedule, but for how float32 rounds it; taps show what that does."""
    old, new = reference.manifest.sigmas, candidate.manifest.sigmas
    if candidate.imported is not None and not new:  # outputs tell no noise levels
        return ()
    if len(old) == len(new) and all(abs(a - b) <= SIGMA_ROUNDING for a, b in zip(old, new, strict=True)):
        return ()
    if len(old) != len(new):
        message = f"reference has {len(old)} noise levels, candidate has {len(new)}"
    else:
        step = max(range(len(old)), key=lambda index: abs(old[index] - new[index]))
        message = f"farthest apart at level {step}: reference has {old[step]:.9g}, candidate has {new[step]:.9g}"
    return (Finding(code="sigma_mismatch", where="sigmas", message=message),)


def _keys(old: object, new: object) -> str:
    """Each key in which two cases differ, with both values: "request.seed (10 and 11)"."""
    return "; ".join(f"{one.key} ({one.old} and {one.new})" for one in _case_differences(old, new))


def _case_differences(old: object, new: object, key: str = "") -> list[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new}, key=str)
        heads = {name: f"{key}.{name}" if key else str(name) for name in names}
        return [one for name in names for one in _case_differences(old.get(name), new.get(name), heads[name])]
    return [] if old == new else [Difference(key=key, old=_short(old), new=_short(new))]


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= MOST_OF_A_VALUE else f"{words[:MOST_OF_A_VALUE]}..."


def sides_of(reference: Run, candidate: Run) -> tuple[Side, Side, tuple[Difference, ...]]:
    """Both sides, and what differs in where they were made and can change bits."""
    return side_of(reference), side_of(candidate), tuple(environment_differences(reference, candidate))


def side_of(run: Run) -> Side:
    """The side that a run is."""
    record = run.manifest
    where = record.environment
    return Side(
        runner=record.runner,
        tier=record.tier,
        dtype=record.dtype,
        reference=record.reference,
        run_sha256=run.sha256,
        described=tuple(map(str, record.details.get(CANDIDATE, ()))),
        run_id=record.run_id,
        code=_text(where, "source_hash"),
        created_utc=record.created_utc,
        device=_text(where, "device"),
        processor=_text(where, "device_name") or _text(where, "cpu"),
    )


def _text(environment: Mapping[str, Any], key: str) -> str:
    value = environment.get(key)
    return "" if value is None else str(value)


def identity_findings(reference: Run, candidate: Run) -> tuple[Finding, ...]:
    """The candidate as the reference's own run, and what the two cannot both say: of their model, of its weights."""
    labels = _contradictions(reference.manifest, candidate.manifest)
    return (*_same_run(reference, candidate), *labels, *weights_findings(reference, candidate))


def _same_run(reference: Run, candidate: Run) -> Iterable[Finding]:
    old, new = reference.manifest, candidate.manifest
    if old.run_id and old.run_id == new.run_id:
        how = f"both are run {old.run_id}"
    elif linked := _linked(reference, candidate):
        how = f"{linked} is one file on disk"
    elif shared := _shared_times(old, new):
        how = f"they took the same time to the last digit ({', '.join(shared[:3])})"
    else:
        return
    yield Finding(code="same_run", where="run", message=f"{how}; run the candidate by itself, or compare another run")


def _shared_times(old: RunManifest, new: RunManifest) -> list[str]:
    """The places in which two runs took a time that no two runs share; empty if they may be two."""
    theirs, ours = _times(old), _times(new)
    shared = {where: time for where, time in theirs.items() if ours.get(where) == time and _by_a_clock(time)}
    enough = len(shared) > 1 or not any(map(_by_gpu_events, shared.values()))
    return list(shared) if enough else []


def _times(record: RunManifest) -> dict[str, float]:
    steps = {f"step {index}": time for index, time in enumerate(record.step_s)}
    return {
        "end to end": record.end_to_end_s,
        **{f"stage {name}": time for name, time in record.stage_s.items()},
    } | steps


def _by_a_clock(duration_s: float) -> bool:
    """True for a time with digits below a microsecond and long enough to scatter by far more than these."""
    return duration_s >= SHORTEST_TOLD_S and round(duration_s, 6) != duration_s


def _by_gpu_events(duration_s: float) -> bool:
    """True for a time that is a float32 number of milliseconds, as events give it: of 2 s, to 0.1 microseconds."""
    milliseconds = duration_s * 1e3
    return math.isclose(float(torch.tensor(milliseconds, dtype=torch.float32)), milliseconds, rel_tol=1e-13)


def _linked(reference: Run, candidate: Run) -> str | None:
    """A data file that both folders hold as one file, through a link or because they are one folder."""
    both = reference.manifest.files.keys() & candidate.manifest.files.keys()
    for name in DATA_FILES:
        if name in both and reference.file(name).is_same_file(candidate.file(name)):
            return name
    return None


def _contradictions(old: RunManifest, new: RunManifest) -> Iterable[Finding]:
    """Labels that two runs on the same weights cannot both have.

    A reference that does not say it is older, and contradicts nothing. A known runner always says it, so a candidate
    that lost it is not taken for one that agrees.
    """
    pairs: dict[str, tuple[object, object]] = {
        "dtype": (old.dtype, new.dtype),
        "model_version": (old.model_version, new.model_version),
        "num_blocks": (old.num_blocks, new.num_blocks),
    }
    for where, (theirs, ours) in pairs.items():
        if theirs in (None, "") or theirs == ours:
            continue
        if ours not in (None, "") or new.runner in NAMES:
            message = f"reference says {theirs}, candidate says {'nothing' if ours in (None, '') else ours}"
            yield Finding(code="identity_mismatch", where=where, message=message)


def output_taps(outputs: RunOutputs | ReducedOutputs, latents: Mapping[str, str]) -> dict[str, Tensor]:
    """The taps whose every bit the outputs tell. Of a reduced run, the frames are not all there.

    `latents` are the taps of those that are decoded, by stream.
    """
    video, audio = outputs.video_latent, outputs.audio_latent
    found = {"decode/waveform": outputs.audio_waveform}
    if isinstance(outputs, RunOutputs):
        found["decode/frames"] = outputs.video_frames
    if video is not None:
        found[latents["video"]] = rearrange(video, "b c f h w -> b (f h w) c")
    if audio is not None:
        found[latents["audio"]] = rearrange(audio, "b c t m -> b t (c m)")
    return found


def output_findings(
    side: str, run: Run, outputs: RunOutputs | ReducedOutputs, latents: Mapping[str, str], other: Trace
) -> Iterable[Finding]:
    """Taps of a run with a trace that are not its own outputs.

    Args:
        side: "reference" or "candidate", for the message.
        run: the run. One that was imported has taps of a dump, and outputs that went through an encoder.
        outputs: of the run.
        latents: the taps of those that are decoded, by stream.
        other: trace of the other side; where it has the same bits, statistics are held to it already.
    """
    if run.imported is not None:
        return
    for tap, output in output_taps(outputs, latents).items():
        if tap not in run.trace:
            continue
        statistics = other.bits.get(tap) != run.trace.bits[tap]
        found = partial(unlike_output, run.trace[tap], output, statistics=statistics)
        if words := run.once(("unlike output", tap, statistics), found):
            yield Finding(code="contradictory_trace", where=tap, message=f"of the {side}: {words}")
