"""The official releases: what differs between them, as named behaviours in one frozen configuration.

The official LTX-2 repository changed the numbers of LTX-2.3 several times. A release is a preset of these switches,
and the model reads the switches, never a version. False is always the behaviour of 1.0.0 (packages `ltx-core` and
`ltx-pipelines` 1.0.0, repository commits 9e8a28e to ae855f8).
"""

from dataclasses import dataclass, fields, replace
from typing import Final

from runners.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ReleaseBehaviours:
    """The behaviours by which official releases differ; each comment says since when, what it touches, and where it is.

    Paths are those of the official repository's packages ltx_core and ltx_pipelines.
    """

    # Since 1.1.2 (41d9243).
    # All sound: vocoder and bandwidth extension in fp32, the result cast back. model/audio_vae/vocoder.py
    vocoder_fp32: bool = False
    # Pictures at a frame other than 0: a keyframe lasts 1 pixel frame, not 8. conditioning/types/keyframe_cond.py
    keyframe_spans_one_frame: bool = False
    # Steps where one modality is skipped: the negative pass, too, leaves it out. utils/denoisers.py
    negative_disables_skipped_modality: bool = False
    # Guided runs: passes get tokens repeated for each, row by row in memory, and a noise level each. One stage does not
    # see it; `res_2s` does, whose levels at middles are fp64. utils/denoisers.py
    guided_passes_repeated: bool = False

    # Since 1.1.7.
    # Sound of the pipelines `two_stage` and `two_stage_hq`: that of the first stage is decoded, not of the second.
    # ltx_pipelines/ti2vid_two_stages.py, ti2vid_two_stages_hq.py
    sound_of_first_stage: bool = False

    # Since 1.2.0 (400fd31).
    # Text: both prompts go through Gemma in one pass, whether or not the negative one is used; rounding only, and none
    # on a CPU. text_encoders/gemma/encoders/base_encoder.py
    prompts_encoded_together: bool = False
    # Everything: video positions stay fp32 instead of being rounded to the model's dtype. tools.py
    positions_fp32: bool = False
    # Any picture: cross-modal scale and shift follow the stream's own timesteps. model/transformer/transformer_args.py
    cross_timestep_per_token: bool = False
    # Guided runs: the passes are combined in fp32, then cast. components/guiders.py
    guidance_fp32: bool = False
    # A picture at frame 0 with strength below 1: noised by an fp32 lerp from the clean latent. components/noisers.py
    noise_lerp_fp32: bool = False
    # All frames, rounding only: decoded in place, in temporal chunks, channels last.
    # model/video_vae/memory_efficient_decode.py
    decoder_chunked: bool = False
    # More than 80 frames or 768 pixels: decoded in tiles without being asked. utils/helpers.py
    decode_auto_tiled: bool = False
    # Pictures with an EXIF orientation or an ICC profile: turned upright, converted to sRGB. utils/media_io/decode.py
    pictures_as_displayed: bool = False
    # Requests without a negative prompt: the default has five more phrases. utils/constants.py
    more_negative_phrases: bool = False
    # Passes without guidance get a noise level each sample, too, so that an fp64 one of `res_2s` makes those of tokens
    # fp64; rounding only. utils/denoisers.py
    unguided_level_per_sample: bool = False
    # LoRAs: factors are cast to bf16 first, and a second file's product is accumulated on the first one's, not summed
    # beside it. loader/fuse_loras.py
    lora_accumulated: bool = False


_SINCE_1_1_2 = ReleaseBehaviours(
    vocoder_fp32=True,
    keyframe_spans_one_frame=True,
    negative_disables_skipped_modality=True,
    guided_passes_repeated=True,
)
RELEASES: dict[str, ReleaseBehaviours] = {
    "1.0.0": ReleaseBehaviours(),
    "1.1.2": _SINCE_1_1_2,
    "1.2.0": replace(
        _SINCE_1_1_2,
        sound_of_first_stage=True,
        prompts_encoded_together=True,
        positions_fp32=True,
        cross_timestep_per_token=True,
        guidance_fp32=True,
        noise_lerp_fp32=True,
        decoder_chunked=True,
        decode_auto_tiled=True,
        pictures_as_displayed=True,
        more_negative_phrases=True,
        unguided_level_per_sample=True,
        lora_accumulated=True,
    ),
}

CUSTOM: Final = "custom"  # what a case follows whose official code is none of these
REFERENCES: Final = (*RELEASES, CUSTOM)  # everything that a case or a run may name as its reference


def reference_of(release: str, overrides: dict[str, bool] | None = None) -> ReleaseBehaviours:
    """The behaviours of an official release, with single ones overridden.

    Raises: ConfigError for a release or a behaviour that is not known, or a value that is not true or false.
    """
    if release not in RELEASES:
        raise ConfigError(f"Unknown reference release {release!r}; known are {', '.join(RELEASES)}.")
    known = {field.name for field in fields(ReleaseBehaviours)}
    unknown = sorted(set(overrides or {}) - known)
    if unknown:
        raise ConfigError(f"Unknown reference behaviour {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    wrong = [f"{name} = {value!r}" for name, value in (overrides or {}).items() if not isinstance(value, bool)]
    if wrong:
        raise ConfigError(f"A reference behaviour is true or false; got {', '.join(wrong)}.")
    return replace(RELEASES[release], **(overrides or {}))
