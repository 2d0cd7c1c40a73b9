"""Groups of taps that a person understands, and that limits are kept for: a few tens, whatever the size of the model.

Drift, in a free run: a tap belongs to the part of the model that made it and, in denoising, to a range of steps, since
harmless noise grows from step to step. Passes and blocks are not kept apart.

    text  connector.{video,audio}  image  init.{video,audio}  upsample
    block.{video,audio}.{self_attn,text_attn,av_attn,ff,out}.{first_step,first_half,second_half}
    {x0,guided,latent}.{video,audio}.{first_step,first_half,second_half}
    decode.{frames,mel,waveform}

`first_half` are steps 1 to S // 2 of S, `second_half` those after. A second stage goes on where the first one ended, so
that all it leaves, what it begins with included, counts as `second_half`; its pictures are pictures.

Isolation, where each place is fed the reference's own inputs: nothing is inherited, so steps are not kept apart either,
and what no tap shows (masks, positions, schedule, rotary tables, modulation, scaled dot-product attention alone) has
groups of its own. `parity.calibrate.isolated_floors` says what is harmless at each.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from parity.taps.name import BLOCK_PARTS, STREAMS, Place, place_of
from runners.stages import SECOND

RANGES: Final = ("first_step", "first_half", "second_half")
ATTENTIONS: Final = ("self_attn", "text_attn", "av_attn")
MODULATIONS: Final = ("block", "prompt", "cross_scale_shift", "cross_gate", "embedding")
DRIFT_GROUPS: Final = (
    "text",
    *(f"connector.{stream}" for stream in STREAMS),
    "image",
    "upsample",
    *(f"init.{stream}" for stream in STREAMS),
    *(f"block.{stream}.{part}.{steps}" for steps in RANGES for part in BLOCK_PARTS for stream in STREAMS),
    *(f"{part}.{stream}.{steps}" for steps in RANGES for part in ("x0", "guided", "latent") for stream in STREAMS),
    *(f"decode.{part}" for part in ("frames", "mel", "waveform")),
)
ISOLATED_GROUPS: Final = (
    "text.mask",
    "text.hidden",
    *(f"connector.{stream}" for stream in STREAMS),
    "image.picture",
    "image.latent",
    "upsample.latent",
    "sigmas",
    *(f"init.{stream}{part}" for stream in STREAMS for part in ("", ".clean", ".denoise_mask", ".positions")),
    *(f"{part}.{stream}" for stream in STREAMS for part in ("entry", "context")),
    *(f"rotary.{stream}.{kind}" for stream in STREAMS for kind in ("own", "cross")),
    *(f"modulation.{stream}.{kind}" for stream in STREAMS for kind in MODULATIONS),
    *(f"block.{stream}.{part}.sdpa" for part in ATTENTIONS for stream in STREAMS),
    *(f"block.{stream}.{part}" for part in BLOCK_PARTS for stream in STREAMS),
    *(f"{part}.{stream}" for part in ("x0", "guided", "latent") for stream in STREAMS),
    *(f"decode.{part}" for part in ("mel", "waveform", "frames")),
)
_COUNTED: Final = (
    (re.compile(rf"^{SECOND}/"), ""),
    (re.compile(r"^denoise/\d+/(?:(?:cond|uncond|perturbed|isolated)/)?"), ""),
    (re.compile(r"^block/\d+/"), "block/"),
    (re.compile(r"^(text|connector|image)/[^/]+/"), r"\1/"),
)


def range_of(step: int, steps: int) -> str:
    """The range that a denoising step belongs to, of so many steps."""
    return RANGES[0] if step == 0 else RANGES[1] if step <= steps // 2 else RANGES[2]


def drift_group(tap: str, steps: int) -> str:
    """The group of a tap in a run of so many steps. Raises: RunError if it is no tap's name."""
    at: Place = place_of(tap)
    if at.part == "hidden":
        return "text"
    if at.part in ("image", "upsample"):
        return at.part
    if at.scope and at.part == "init":
        return f"latent.{at.stream}.{RANGES[-1]}"
    if at.part in ("connector", "init"):
        return f"{at.part}.{at.stream}"
    if at.step is None:
        return f"decode.{at.part}"
    part = f"block.{at.stream}.{at.part}" if at.block is not None else f"{at.part}.{at.stream}"
    return f"{part}.{RANGES[-1] if at.scope else range_of(at.step, steps)}"


def isolated_group(where: str) -> str | None:
    """The group of a place of an isolation; None for one that stands for something left out, such as a whole pass."""
    for pattern, instead in _COUNTED:
        where = pattern.sub(instead, where)
    group = where.replace("/", ".")
    return group if group in ISOLATED_GROUPS else None


def worst_by_group(errors: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    """The largest error of each group, from pairs of group and error; nan if any of them is."""
    worst: dict[str, float] = {}
    for group, error in errors:
        before = worst.get(group, 0.0)
        worst[group] = math.nan if math.isnan(error) or math.isnan(before) else max(before, error)
    return worst
