"""The outputs of a run against its own taps of them: what a run says twice must be one thing.

`decode/frames` and `decode/waveform` are what is handed back, and the state after the last step is the final latent, as
tokens. So the sketches of these taps can be worked out from the outputs, and a run that took another's trace beside
outputs of its own contradicts itself.

Axes: B batch, C channel, F frame, H row, W column, T token, M mel bin.
"""

from collections.abc import Iterable
from functools import partial

from einops import rearrange
from torch import Tensor

from parity.diff.finding import Finding
from parity.runs.folder import Run, RunOutputs
from parity.runs.reduced import ReducedOutputs
from parity.trace.consistency import unlike_output
from parity.trace.file import Trace


def output_taps(outputs: RunOutputs | ReducedOutputs, steps: int) -> dict[str, Tensor]:
    """The taps whose every bit the outputs tell. Of a reduced run, the frames are not all there."""
    last, video, audio = f"denoise/{steps - 1:03d}/latent", outputs.video_latent, outputs.audio_latent
    found = {"decode/waveform": outputs.audio_waveform}
    if isinstance(outputs, RunOutputs):
        found["decode/frames"] = outputs.video_frames
    if video is not None:
        found[f"{last}/video"] = rearrange(video, "b c f h w -> b (f h w) c")
    if audio is not None:
        found[f"{last}/audio"] = rearrange(audio, "b c t m -> b t (c m)")
    return found


def output_findings(
    side: str, run: Run, outputs: RunOutputs | ReducedOutputs, steps: int, other: Trace
) -> Iterable[Finding]:
    """Taps of a run with a trace that are not its own outputs.

    Args:
        side: "reference" or "candidate", for the message.
        run: the run. One that was imported has taps of a dump, and outputs that went through an encoder.
        outputs: of the run.
        steps: that the case asks for.
        other: trace of the other side; where it has the same bits, statistics are held to it already.
    """
    if run.imported is not None:
        return
    for tap, output in output_taps(outputs, steps).items():
        if tap not in run.trace:
            continue
        statistics = other.bits.get(tap) != run.trace.bits[tap]
        found = partial(unlike_output, run.trace[tap], output, statistics=statistics)
        if words := run.once(("unlike output", tap, statistics), found):
            yield Finding(code="contradictory_trace", where=tap, message=f"of the {side}: {words}")
