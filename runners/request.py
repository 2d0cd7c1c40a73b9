"""The parts of every request: pictures, guiders, and the bounds they keep to.

A case file (`runners.case`) and the native model (`runners.ltx23.sampling`) use the very same types and bounds.
"""

import math
import sys
from typing import Protocol

from runners.errors import CaseError
from runners.strict import Strict

MAX_SIDE_PX = 8192
MAX_FRAMES = 4097
MAX_DURATION_S = 3600  # a frame rate may ask for any; nothing longer gets sound
MAX_FRAME_RATE = 1000
MAX_STEPS = 1000
MAX_BLOCKS = 4096
MAX_LORAS = 64
SPATIAL_FACTOR = 32  # pixels a latent cell spans along height and width
TEMPORAL_FACTOR = 8  # pixel frames a latent frame spans, the first one excepted
AUDIO_LATENTS_PER_S = 25
NUMBER = (int, float)  # types that a quantity may have; bool is none


class ImageCondition(Strict, frozen=True, kw_only=True):
    """A picture the video must show at a frame."""

    path: str  # in a case relative to its file; what the model is given is resolved
    frame_idx: int = 0
    strength: float = 1.0  # 1 keeps the picture, 0 ignores it
    crf: int = 33  # H.264 quality of the round trip the picture takes first; 0 skips it


class Lora(Strict, frozen=True, kw_only=True):
    """Low-rank factors that are fused into weights of the transformer before it runs."""

    path: str  # relative to the case file, or the name of a file in the weights folder
    strength: float = 1.0  # what the product of the factors is multiplied by; 0 leaves the weights alone


class Guider(Strict, frozen=True, kw_only=True):
    """Guidance of one modality, by default none; the formula is in `runners.ltx23.guidance`."""

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    rescale_scale: float = 0.0
    modality_scale: float = 1.0
    skip_step: int = 0  # evaluate one step of skip_step + 1, reuse its x0 in the others
    stg_blocks: tuple[int, ...] = ()

    @property
    def needs_uncond(self) -> bool:
        """True if the negative prompt's pass has any weight."""
        return not math.isclose(self.cfg_scale, 1.0)

    @property
    def needs_perturbed(self) -> bool:
        """True if the pass with self-attention replaced by its values has any weight."""
        return not math.isclose(self.stg_scale, 0.0)

    @property
    def needs_isolated(self) -> bool:
        """True if the pass with cross-modal attention off has any weight."""
        return not math.isclose(self.modality_scale, 1.0)

    def skips(self, step: int) -> bool:
        """True if this modality reuses its last x0 at `step` instead of being evaluated."""
        return self.skip_step != 0 and step % (self.skip_step + 1) != 0


class RequestBounds(Protocol):
    """The fields of a request that have bounds."""

    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def num_frames(self) -> int: ...  # noqa: D102
    @property
    def frame_rate(self) -> float: ...  # noqa: D102
    @property
    def num_inference_steps(self) -> int: ...  # noqa: D102
    @property
    def images(self) -> tuple[ImageCondition, ...]: ...  # noqa: D102


def check_request(whose: str, table: str, request: RequestBounds) -> None:
    """Refuse a request that the model cannot run.

    Args:
        whose: the beginning of every sentence, such as "Case 'demo'".
        table: what stands before the name of a field, such as "request.".
        request: fields of the right types.
    Raises: CaseError naming the field, its value and what was wanted.
    """
    where = f"{whose}: {table}"
    for side in ("height", "width"):
        value: int = getattr(request, side)
        if value % SPATIAL_FACTOR or not 0 < value <= MAX_SIDE_PX:
            low = min(max(SPATIAL_FACTOR, value // SPATIAL_FACTOR * SPATIAL_FACTOR), MAX_SIDE_PX - SPATIAL_FACTOR)
            raise CaseError(
                f"{where}{side} is {value}; it must be a multiple of {SPATIAL_FACTOR} up to "
                f"{MAX_SIDE_PX} pixels. Take {low} or {low + SPATIAL_FACTOR}."
            )
    frames, rate = request.num_frames, request.frame_rate
    if frames % TEMPORAL_FACTOR != 1 or not 0 < frames <= MAX_FRAMES:
        low = min(max(0, (frames - 1) // TEMPORAL_FACTOR) * TEMPORAL_FACTOR + 1, MAX_FRAMES - TEMPORAL_FACTOR)
        raise CaseError(
            f"{where}num_frames is {frames}; it must be 8k + 1 and at most {MAX_FRAMES}. "
            f"Take {low} or {low + TEMPORAL_FACTOR}."
        )
    if not 0 < rate <= MAX_FRAME_RATE:  # nor NaN
        raise CaseError(f"{where}frame_rate is {rate}; wanted 0 < rate <= {MAX_FRAME_RATE} a second.")
    if frames / rate > MAX_DURATION_S:
        raise CaseError(
            f"{whose}: {frames} frames at {rate} a second last {frames / rate:.3g} s; "
            f"at most {MAX_DURATION_S} s are made. Ask for fewer frames or a higher rate."
        )
    if round(frames / rate * AUDIO_LATENTS_PER_S) == 0:
        raise CaseError(
            f"{whose}: {frames} frames at {rate} a second last {frames / rate:.3g} s, "
            f"too short for sound ({AUDIO_LATENTS_PER_S} latents a second); ask for more frames or a lower rate."
        )
    if not 1 <= request.num_inference_steps <= MAX_STEPS:
        raise CaseError(f"{where}num_inference_steps is {request.num_inference_steps}; wanted 1 to {MAX_STEPS}.")
    if not 0 <= request.seed < 2**63:
        raise CaseError(f"{where}seed is {request.seed}; wanted 0 <= seed < 2^63.")
    for index, image in enumerate(request.images):
        if not isinstance(image, ImageCondition):
            raise CaseError(f"{where}images[{index}] is {image!r}; wanted ImageCondition.")
        _check_image(f"{where}images[{index}]", image, frames)


def _check_image(where: str, image: ImageCondition, frames: int) -> None:
    if type(image.path) is not str:
        raise CaseError(f"{where}.path is {image.path!r}; wanted the name of a picture.")
    if not (type(image.frame_idx) is int and 0 <= image.frame_idx < frames):
        raise CaseError(f"{where}.frame_idx is {image.frame_idx}; wanted 0 to {frames - 1}.")
    if not (type(image.strength) in NUMBER and 0.0 <= image.strength <= 1.0):
        raise CaseError(f"{where}.strength is {image.strength}; wanted 0 to 1.")
    if not (type(image.crf) is int and 0 <= image.crf <= 51):
        raise CaseError(f"{where}.crf is {image.crf}; H.264 takes 0 (round trip skipped) to 51.")


def check_guider(where: str, guider: Guider) -> None:
    """Refuse guidance that has no meaning. Raises: CaseError beginning with `where`."""
    for name in ("cfg_scale", "stg_scale", "rescale_scale", "modality_scale"):
        value = getattr(guider, name)
        if not (type(value) in NUMBER and abs(value) <= sys.float_info.max):  # nor NaN
            raise CaseError(f"{where}.{name} is {value}; wanted a finite number.")
    if not (type(guider.skip_step) is int and 0 <= guider.skip_step <= MAX_STEPS):
        raise CaseError(f"{where}.skip_step is {guider.skip_step}; wanted 0 (never skip) to {MAX_STEPS}.")
    blocks = guider.stg_blocks
    if not (type(blocks) is tuple and all(type(block) is int and 0 <= block < MAX_BLOCKS for block in blocks)):
        shown = list(blocks) if type(blocks) is tuple else blocks
        raise CaseError(f"{where}.stg_blocks is {shown!r}; wanted a tuple of block numbers from 0.")


def check_loras(whose: str, loras: tuple[Lora, ...]) -> None:
    """Refuse LoRAs that have no meaning. Raises: CaseError beginning with `whose`."""
    if len(loras) > MAX_LORAS:
        raise CaseError(f"{whose}: {len(loras)} LoRAs; at most {MAX_LORAS} are fused.")
    for index, lora in enumerate(loras):
        if not (type(lora.path) is str and lora.path):
            raise CaseError(f"{whose}: loras[{index}].path is {lora.path!r}; wanted the name of a safetensors file.")
        if not (type(lora.strength) in NUMBER and abs(lora.strength) <= sys.float_info.max):  # nor NaN
            raise CaseError(f"{whose}: loras[{index}].strength is {lora.strength}; wanted a finite number.")
