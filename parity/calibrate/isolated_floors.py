"""The harmless variation at each group of places of an isolation, each fed the reference's own inputs.

`exact`: integers, copies, or single operations that any IEEE arithmetic rounds alike. Nothing harmless moves a bit.

`elementwise`: a few operations on each element. Harmless is what the last place of the dtype it is computed in leaves
open, so the bound follows from the arithmetic and is not measured. With e the spacing of a dtype at 1 (bf16 2^-7, fp32
2^-23), one ULP is between e/2 and e of the value it belongs to, and relative L2 moves so:

* Every element off by one ULP of bf16: by at most 2^-7. Every element rounded once more to bf16: the error is uniform
  within half a ULP, its root mean square ULP/sqrt(12), and so at most e/sqrt(12), 2.3e-3. That much is a whole rounding
  of everything, and a stage computed in fp32 never does it harmlessly.
* Computed in fp32 and rounded to bf16 (noise, Euler step): two right computations differ by at most `FEW_ULP` of fp32
  before they are rounded, and fall to either side of a rounding boundary of bf16 in FEW_ULP e_fp32 / e_bf16 of the
  elements, which are then off by one ULP of bf16. That is sqrt(FEW_ULP e_fp32 e_bf16), 6.1e-5, for each rounding to
  bf16 on the way; independent ones add as squares.
* Computed in the dtype that it is kept in (guided combination of release 1.0.0, in bf16): the same expression in wider
  arithmetic is rounded once where the reference rounds n times. The n errors are independent: sqrt(n) e/sqrt(12), as
  long as no partial result is much larger than the whole. Where one is, a harmless run is seen beyond it, and the
  limit says so.

So a combination in fp32 is harmless where the reference combines in bf16, for it only takes roundings away and lies
nearer to the truth; one in bf16 is not where the reference combines in fp32 (1.2.0). The Euler step rounds its velocity
to bf16 and is otherwise in fp32. To leave that rounding out is nearer to the truth as well, but as far from the
reference as an Euler step in bf16 is, and relative L2 alone does not tell them apart: neither passes.

`product`, `attention`, `convolution`: sums of many terms, which exact kernels round in other ways. How far is measured:
floors of these come from other kernels and rewrites of that very place. `attention` is scaled dot-product attention
alone, fed the reference's rotated queries, keys and values; projections, norms and rotary are in the branch around it.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from parity.taps.group import ATTENTIONS, MODULATIONS
from parity.taps.name import BLOCK_PARTS, STREAMS

Kind = Literal["exact", "elementwise", "product", "attention", "convolution"]
Dtype = Literal["bf16", "fp32"]

SPACING: Final[dict[Dtype, float]] = {"bf16": 2.0**-7, "fp32": 2.0**-23}  # between 1 and the next number
FEW_ULP: Final = 4  # by which two right computations may differ before they are rounded


@dataclass(frozen=True, kw_only=True)
class HarmlessFloor:
    """A group of places, of a run in bf16."""

    kind: Kind
    what: str  # is computed there
    computed: Dtype = "bf16"  # elementwise only
    kept: Dtype = "bf16"  # elementwise only: dtype of the result
    roundings: int = 1  # elementwise only: to the dtype of the result, on the way there

    @property
    def bound(self) -> float | None:
        """The most that harmless variation adds, relative L2; None where that is measured."""
        if self.kind == "exact":
            return 0.0
        if self.kind != "elementwise":
            return None
        if self.computed == self.kept:
            return math.sqrt(self.roundings / 12) * SPACING[self.kept]
        return math.sqrt(self.roundings * FEW_ULP * SPACING[self.computed] * SPACING[self.kept])

    @property
    def bound_from(self) -> str:
        """The source of the bound, in a few words; "" where there is none."""
        if self.kind == "exact":
            return f"{self.what}: no harmless variation"
        if self.kind != "elementwise":
            return ""
        if self.computed == self.kept:
            return f"{self.what}, in {self.kept}: {self.roundings} roundings"
        times = "" if self.roundings == 1 else f", rounded {self.roundings} times"
        return f"{self.what}, in {self.computed} to {self.kept}{times}: {FEW_ULP} ULP of {self.computed}"


def _per_stream(names: tuple[str, ...], place: HarmlessFloor) -> dict[str, HarmlessFloor]:
    return {name.format(stream): place for stream in STREAMS for name in names}


_ROTARY: Final = HarmlessFloor(kind="elementwise", what="cosine and sine of an angle", computed="fp32")
_PLACES: Final[dict[str, HarmlessFloor]] = {
    "text.mask": HarmlessFloor(kind="exact", what="token ids"),
    "text.hidden": HarmlessFloor(kind="product", what="products and attention of the language model"),
    "image.picture": HarmlessFloor(kind="elementwise", what="resizing and scaling of bytes", computed="fp32"),
    "image.latent": HarmlessFloor(kind="convolution", what="video encoder"),
    "upsample.latent": HarmlessFloor(kind="convolution", what="spatial upsampler"),
    "sigmas": HarmlessFloor(kind="elementwise", what="noise schedule", computed="fp32", kept="fp32", roundings=7),
    **_per_stream(("connector.{}",), HarmlessFloor(kind="product", what="products and attention of the connector")),
    **_per_stream(("init.{}",), HarmlessFloor(kind="elementwise", what="noise laid on", computed="fp32")),
    **_per_stream(
        ("init.{}.clean", "init.{}.denoise_mask", "init.{}.positions", "context.{}"),
        HarmlessFloor(kind="exact", what="copies, whole numbers and single divisions"),
    ),
    **_per_stream(("rotary.{}.own", "rotary.{}.cross"), _ROTARY),
    **_per_stream(("entry.{}",), HarmlessFloor(kind="product", what="projection of the latent's channels")),
    **_per_stream(
        tuple(f"modulation.{{}}.{part}" for part in MODULATIONS),
        HarmlessFloor(kind="product", what="embedding of the noise level"),
    ),
    **_per_stream(
        tuple(f"block.{{}}.{part}.sdpa" for part in ATTENTIONS),
        HarmlessFloor(kind="attention", what="scaled dot-product attention alone"),
    ),
    **_per_stream(
        tuple(f"block.{{}}.{part}" for part in BLOCK_PARTS),
        HarmlessFloor(kind="product", what="norm, modulation, rotary, products and attention up to here in the block"),
    ),
    **_per_stream(("x0.{}",), HarmlessFloor(kind="product", what="output head")),
    # c - u, c - p, c - m, two of them weighted by what is no power of two, three sums, the rescale.
    **_per_stream(("guided.{}",), HarmlessFloor(kind="elementwise", what="guided combination", roundings=9)),
    # pulled to the given tokens, the velocity, the sum
    **_per_stream(("latent.{}",), HarmlessFloor(kind="elementwise", what="Euler step", computed="fp32", roundings=3)),
    "decode.mel": HarmlessFloor(kind="convolution", what="audio decoder"),
    "decode.waveform": HarmlessFloor(kind="convolution", what="vocoder"),
    "decode.frames": HarmlessFloor(kind="convolution", what="video decoder"),
}
_GUIDED_IN_FP32: Final = HarmlessFloor(kind="elementwise", what="guided combination", computed="fp32")


def place_of_group(group: str, *, guidance_fp32: bool = False) -> HarmlessFloor:
    """The place that an isolated group stands for.

    Args:
        group: one of `parity.taps.group.ISOLATED_GROUPS`.
        guidance_fp32: reference behaviour of that name: the release combines in fp32.
    """
    return _GUIDED_IN_FP32 if guidance_fp32 and group.startswith("guided.") else _PLACES[group]
