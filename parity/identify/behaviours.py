"""Switches that `parity identify` can tell: the behaviours by which official releases differ, and known batching.

Defects of ports, which it tries where these leave a run unexplained, are in `parity.identify.port_defects`.

A switch is a name that is on or off. Each says in which part of a run it first shows (its sites, in the order of the
data flow), and when a case cannot show it at all, because what it acts on is not there. That it cannot show by
rounding away is not foreseen here but found by trying.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Final

from parity.defects.defect import Defect
from parity.identify.releases import WORDS
from runners.case import Case
from runners.ltx23.passes import pass_names
from runners.ltx23.video_tiling import AUTO_TILING
from runners.releases import RELEASES, ReleaseBehaviours
from runners.request import Guider
from runners.stages import PIPELINES

Setting = frozenset[str]  # the switches that are on

CONNECTORS_BATCHED: Final = "connectors_batched"
CONNECTORS_SHARE_MASK: Final = "connectors_share_mask"
PROMPT_PASSES_BATCHED: Final = "prompt_passes_batched"
ALL_PASSES_BATCHED: Final = "guidance_passes_batched"
BATCHING: Final = (CONNECTORS_BATCHED, CONNECTORS_SHARE_MASK, PROMPT_PASSES_BATCHED, ALL_PASSES_BATCHED)
OF_RELEASES: Final = frozenset(field.name for field in fields(ReleaseBehaviours))


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """One switch. `idle` says why a case in a dtype ("bf16", "fp32") cannot show it, or None if it may."""

    name: str
    words: str  # a noun phrase for what the model does with it on; of a defect, a clause
    sites: tuple[str, ...]  # where it may first show, of SITES
    idle: Callable[[Case, str], str | None]
    defect: Defect | None = None  # of a port; None for what a release or a way to batch may do
    about: str = ""  # of a defect: what it gets wrong, where there are several ways, of which a port has at most one
    at_loading: bool = False  # whether the defect changes a component while it is loaded, so that it is loaded anew

    @property
    def since(self) -> str | None:
        """The first release that has it on; None for what no release does by default."""
        return next((release for release in RELEASES if self.name in setting_of(release)), None)


SITES: Final = (
    "text",  # Gemma's hidden states
    "connector",
    "image",  # latents of pictures
    "init",  # the first latents
    "first_block",  # of the first step's conditional pass
    "passes",  # of the first step, all
    "guided",  # the first step's guided prediction
    "skipping",  # the first step at which exactly one modality is skipped
    "denoising",  # all steps, and the final latents of a single stage
    "second",  # the second stage, with the upsampling before it, and the final latents
    "frames",
    "sound",
)


def setting_of(release: str) -> Setting:
    """The switches that a release has on."""
    return frozenset(field.name for field in fields(ReleaseBehaviours) if getattr(RELEASES[release], field.name))


def reference_at(setting: Setting) -> ReleaseBehaviours:
    """The native configuration at a setting; batching and defects are no part of it."""
    return ReleaseBehaviours(**dict.fromkeys(setting & OF_RELEASES, True))


def nearest_release(setting: Setting, decisions: Iterable[str], preferred: str) -> str:
    """The release that differs in the fewest told switches; among equals the preferred one, else the earliest."""
    known = frozenset(decisions)
    distance = {release: len((setting ^ setting_of(release)) & known) for release in RELEASES}
    least = min(distance.values())
    return preferred if distance.get(preferred) == least else next(r for r in RELEASES if distance[r] == least)


def first_skipping_step(case: Case) -> int | None:
    """The first step at which exactly one modality reuses its last prediction, if there is one."""
    video, audio = _guidance(case)
    steps = range(case.request.num_inference_steps)
    return next((step for step in steps if video.skips(step) != audio.skips(step)), None)


def _guidance(case: Case) -> tuple[Guider, Guider]:
    return case.guidance.video, case.guidance.audio


def never_idle(_case: Case, _dtype: str) -> None:
    """No reason: any case may show it."""
    return


def _no_negative(case: Case, _dtype: str) -> str | None:
    return None if "uncond" in pass_names(*_guidance(case)) else "no pass uses the negative prompt"


def _one_pass(case: Case, _dtype: str) -> str | None:
    return None if len(pass_names(*_guidance(case))) > 1 else "a step has one pass"


def _no_default_negative(case: Case, dtype: str) -> str | None:
    if case.request.negative_prompt is not None:
        return "the request brings its own negative prompt"
    return _no_negative(case, dtype)


def no_picture(case: Case, _dtype: str) -> str | None:
    """The reason of what acts on pictures, in a case without."""
    return None if case.request.images else "there is no picture"


def _no_partial_strength(case: Case, dtype: str) -> str | None:
    if len(case.plans) > 1:  # a second stage begins with part noise everywhere
        return None
    if any(image.strength not in (0.0, 1.0) for image in case.request.images):
        return None
    return no_picture(case, dtype) or "every picture has strength 1 or 0"


def _no_keyframe(case: Case, dtype: str) -> str | None:
    if any(image.frame_idx for image in case.request.images):
        return None
    return no_picture(case, dtype) or "every picture is at frame 0"


def _no_lora(case: Case, _dtype: str) -> str | None:
    return None if case.loras or PIPELINES[case.pipeline].lora_strengths else "there is no LoRA"


def _no_res_2s(case: Case, _dtype: str) -> str | None:
    return None if case.plans[0].sampler == "res_2s" else "the sampler takes no step in fp64"


def in_fp32(_case: Case, dtype: str) -> str | None:
    """The reason of what computes something in fp32, in a run that is in fp32."""
    return "the run is in fp32 throughout" if dtype == "fp32" else None


def _not_guided(case: Case, dtype: str) -> str | None:
    guided = _one_pass(case, dtype) is None or any(one.rescale_scale for one in _guidance(case))
    return in_fp32(case, dtype) or (None if guided else "nothing is guided")


def _no_skipping(case: Case, dtype: str) -> str | None:
    if first_skipping_step(case) is None:
        return "no step skips exactly one modality"
    return _no_negative(case, dtype)


def _one_tile(case: Case, _dtype: str) -> str | None:
    frames, side = AUTO_TILING.tile_frames, AUTO_TILING.tile_px
    assert frames is not None and side is not None
    if case.request.num_frames > frames or max(case.request.height, case.request.width) > side:
        return None
    return f"the clip has at most {frames} frames of at most {side} pixels, which is one tile"


def _sound_did_not_move(case: Case, _dtype: str) -> str | None:
    return (
        None if PIPELINES[case.pipeline].sound_moved else "its pipeline decodes the last stage's sound in all releases"
    )


_WORDS: Final = {
    **WORDS,
    CONNECTORS_BATCHED: "both prompts through the connectors in one batch",
    CONNECTORS_SHARE_MASK: "one mask for both prompts in the connectors",
    PROMPT_PASSES_BATCHED: "the passes of both prompts as one batch",
    ALL_PASSES_BATCHED: "all guidance passes as one batch",
}
# By name: where it may first show, and when it cannot.
_SHOWS: Final[dict[str, tuple[tuple[str, ...], Callable[[Case, str], str | None]]]] = {
    "prompts_encoded_together": (("text", "connector"), never_idle),
    "more_negative_phrases": (("text",), _no_default_negative),
    CONNECTORS_BATCHED: (("connector",), _no_negative),
    CONNECTORS_SHARE_MASK: (("connector",), _no_negative),
    "pictures_as_displayed": (("image",), no_picture),
    "noise_lerp_fp32": (("init", "second"), _no_partial_strength),
    "positions_fp32": (("first_block", "passes", "denoising"), in_fp32),
    "keyframe_spans_one_frame": (("first_block", "passes", "denoising"), _no_keyframe),
    "cross_timestep_per_token": (("first_block", "passes", "denoising"), never_idle),
    "guided_passes_repeated": (("denoising",), _no_res_2s),
    "lora_accumulated": (("first_block", "passes", "denoising"), _no_lora),
    PROMPT_PASSES_BATCHED: (("passes", "denoising"), _no_negative),
    ALL_PASSES_BATCHED: (("passes", "denoising"), _one_pass),
    "guidance_fp32": (("guided", "denoising"), _not_guided),
    "negative_disables_skipped_modality": (("skipping", "denoising"), _no_skipping),
    "decoder_chunked": (("frames",), never_idle),
    "decode_auto_tiled": (("frames",), _one_tile),
    "vocoder_fp32": (("sound",), in_fp32),
    "sound_of_first_stage": (("second",), _sound_did_not_move),
    "unguided_level_per_sample": (("second",), _no_res_2s),
}
BEHAVIOURS: Final = {
    name: Behaviour(name=name, words=_WORDS[name], sites=sites, idle=idle) for name, (sites, idle) in _SHOWS.items()
}
