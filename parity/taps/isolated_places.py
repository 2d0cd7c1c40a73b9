"""The places of an isolation: what each part is compared at, fed the reference's own inputs, as the case lays it out.

They follow from the case and the number of blocks (`parity.taps.dataflow`): its taps, and what no tap shows. The taps
of the text, the pictures, the start and the decoders stand once, a second stage has its own. A measured step, in both
stages, has for each pass the conditions that
its blocks are given, every branch of every block, scaled dot-product attention alone before the branch it is in, and
the output head; then the guided prediction and the state after the step.
"""

from collections.abc import Iterable, Iterator

from parity.taps.dataflow import Dataflow
from parity.taps.group import ATTENTIONS, MODULATIONS
from parity.taps.name import STREAMS, place_of
from runners.stages import StagePlan


def isolated_places(flow: Dataflow, steps: Iterable[int]) -> tuple[str, ...]:
    """Every place of a whole isolation that measures these denoising steps, in data-flow order."""
    return tuple(_places(flow, frozenset(steps)))


def _places(flow: Dataflow, steps: frozenset[int]) -> Iterator[str]:
    for sign in flow.signs:
        yield from (f"text/{sign}/mask", f"text/{sign}/hidden")
    for sign in flow.signs:
        yield from (f"connector/{sign}/{stream}" for stream in STREAMS)
    for scope, plan in flow.plans.items():
        if scope:
            yield "upsample/latent"
        yield from _stage(flow, scope, plan, steps)
    yield from ("decode/frames", "decode/mel", "decode/waveform")


def _stage(flow: Dataflow, scope: str, plan: StagePlan, steps: frozenset[int]) -> Iterator[str]:
    for image in range(flow.images):
        yield from (f"{plan.prefix}image/{image}/picture", f"{plan.prefix}image/{image}/latent")
    yield f"{plan.prefix}sigmas"
    for stream in STREAMS:
        yield f"{plan.prefix}init/{stream}"
        yield from (f"{plan.prefix}init/{stream}/{part}" for part in ("clean", "denoise_mask", "positions"))
    for step in sorted(steps & set(range(plan.evaluations))):
        for guidance_pass in flow.passes_of(step, scope):
            yield from _conditions(f"{plan.prefix}denoise/{step:03d}/{guidance_pass}")
    for tap in flow.taps:
        at = place_of(tap)
        alone = at.part != "latent" or plan.sampler == "euler"  # what another sampler adds up is of several predictions
        if alone and at.step in steps and at.scope == scope:
            if at.part in ATTENTIONS and not _left_out(flow, tap):
                yield f"{tap}/sdpa"
            yield tap


def _conditions(head: str) -> Iterator[str]:
    for stream in STREAMS:
        yield from (f"{head}/entry/{stream}", f"{head}/context/{stream}")
        yield from (f"{head}/rotary/{stream}/{kind}" for kind in ("own", "cross"))
        yield from (f"{head}/modulation/{stream}/{kind}" for kind in MODULATIONS)


def _left_out(flow: Dataflow, tap: str) -> bool:
    """True for the self-attention of a perturbed block, which hands on its values in place of attending."""
    at = place_of(tap)
    return (
        at.part == "self_attn"
        and at.guidance_pass == "perturbed"
        and at.block in flow.perturbed_blocks[at.stream or ""]
    )
