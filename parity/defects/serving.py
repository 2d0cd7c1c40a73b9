"""Defects of serving engines: work reused that should be done again, and padding that should not be seen.

Axes: B sample, T token, C channel, H head, F frequency.
"""

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor
from torch.nn import functional as F

from parity.defects.defect import BOTH, replaces
from runners.ltx23.attention import Attention
from runners.ltx23.passes import GuidancePass
from runners.ltx23.rotary import Rotary, SplitRotary
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step

Original = Callable[..., Any]
PADDED_TO: Final = 64  # tokens


def _is_streams_own(
    attention: Attention,
    x: Tensor,
    context: Tensor,
    *,
    mask: Tensor | None = None,
    values_only: bool = False,
    query_rotary: Rotary | None = None,
    **_: Any,
) -> bool:
    """True if this is self-attention of a stream of the transformer; a connector's has a mask."""
    is_stream = x is context and mask is None and isinstance(query_rotary, SplitRotary)
    return is_stream and not values_only and x.shape[1] % PADDED_TO != 0


@replaces(
    DenoisingStage,
    "_pass",
    "denoise/001/perturbed/*",
    shows_in=BOTH,
    when=lambda stage, one, *_, **__: one.name == "perturbed",
)
def pass_reused(
    original: Original, stage: Any, one: GuidancePass, batch: Batch, step: Step, *rest: Any, **options: bool
) -> Pair:
    """The perturbed pass of the first step serves in all later ones."""
    sigma = float(step.sigma)
    first_sigma, x0 = vars(stage).get("first_perturbed", (sigma, None))
    if sigma != first_sigma:
        kept: Pair = x0
        return kept
    computed: Pair = original(stage, one, batch, step, *rest, **options)
    stage.first_perturbed = sigma, computed
    return computed


@replaces(DenoisingStage, "evaluate_stage1_guided_x0", "denoise/001/*", shows_in=BOTH)
def step_reused(original: Original, stage: Any, batch: Batch, step: Step, last: Pair | None) -> Pair:
    """Every other step takes the guided prediction of the step before it."""
    if last is not None and vars(stage).get("reused") is not last:
        stage.reused = last
        return last
    computed: Pair = original(stage, batch, step, last)
    return computed


@replaces(Attention, "forward", "denoise/000/cond/block/00/*/self_attn", when=_is_streams_own)
def sequence_padding_attended(
    original: Original, attention: Attention, x: Tensor, context: Tensor, *, query_rotary: SplitRotary, **_: Any
) -> Tensor:
    """Tokens are padded to a multiple of 64 and attend to the padding."""
    tokens, missing = x.shape[1], -x.shape[1] % PADDED_TO
    rows = (0, 0, 0, missing)
    rotary = SplitRotary(
        cos=F.pad(query_rotary.cos, rows, value=1.0),
        sin=F.pad(query_rotary.sin, rows),
        negative_sin=F.pad(query_rotary.negative_sin, rows),
    )
    padded = F.pad(x, rows)  # (B, T, C) -> (B, a multiple, C)
    attended: Tensor = original(attention, padded, padded, query_rotary=rotary, key_rotary=rotary)
    return attended[:, :tokens]
