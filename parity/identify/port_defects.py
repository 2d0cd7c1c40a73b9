"""Defects of ports that `parity identify` can name, beside the switches by which releases differ.

A port defect is one of `parity.defects`, put into the native model where the release switches leave a site of the run
unexplained. Its words are a clause that goes on where "as 1.1.2, but" ends.
"""

from collections.abc import Callable
from typing import Final

from parity.defects import decoding, guidance, latents, pictures, ports, serving, text, transformer
from parity.defects.defect import Defect
from parity.identify.behaviours import Behaviour, in_fp32, never_idle, no_picture
from runners.case import Case

_Idle = Callable[[Case, str], str | None]


def _v2a_is(off: bool) -> _Idle:
    def idle(case: Case, _dtype: str) -> str | None:
        wanted = case.switches.skip_v2a_cross_attn_for_video_gt is off
        return None if wanted else f"the case has V2A {'on' if off else 'off'}"

    return idle


def _port(
    site: str, defect: Defect, words: str, idle: _Idle = never_idle, *, about: str = "", at_loading: bool = False
) -> Behaviour:
    return Behaviour(
        name=f"{site}/{defect.id}",
        words=words,
        sites=(site,),
        idle=idle,
        defect=defect,
        about=about,
        at_loading=at_loading,
    )


# At each site the likelier ones first: of several that do the same to a run, the first is named.
_ALL: Final = (
    _port("text", ports.text_encoder_fp32, "its text encoder ran in fp32", in_fp32),
    _port("text", text.attends_padded_text, "its text encoder attended over the padding"),
    _port("text", text.text_without_first_token, "its tokenizer added no <bos>"),
    _port("text", text.text_layers_off_by_one, "its hidden states were taken one layer off"),
    _port("connector", ports.rotary_applied_fp32, "its connectors' rotary tables stayed in fp32", in_fp32),
    _port("connector", ports.rotary_grid_bf16, "its connectors' rotary grid was computed in bf16", about="rotary grid"),
    _port("connector", ports.rotary_grid_fp32, "its connectors' rotary grid was computed in fp32", about="rotary grid"),
    _port("connector", text.connector_rotary_dropped, "its connectors had no rotary embedding"),
    _port(
        "connector",
        text.connector_registers_reversed,
        "its connectors' registers stood in reverse order",
        about="registers",
    ),
    _port(
        "connector",
        text.connector_mask_wrong_side,
        "its connectors' registers replaced the wrong places",
        about="registers",
    ),
    _port(
        "connector",
        ports.connector_registers_left_out,
        "its connectors had zeros in place of registers",
        about="registers",
    ),
    _port(
        "connector",
        ports.connector_tokens_not_moved,
        "its connectors' registers stood before the real tokens",
        about="registers",
    ),
    _port("image", pictures.resize_antialiased, "its picture was scaled down with antialiasing", no_picture),
    _port(
        "image",
        ports.picture_cropped_before_scaling,
        "its picture was cropped before it was scaled",
        no_picture,
        about="crop",
    ),
    _port(
        "image", pictures.picture_stretched, "its picture was stretched instead of cropped", no_picture, about="crop"
    ),
    _port(
        "image",
        ports.picture_stretched_by_lanczos,
        "its picture was stretched by a Lanczos filter instead of cropped",
        no_picture,
        about="crop",
    ),
    _port("image", pictures.picture_not_compressed, "its picture skipped the H.264 round trip", no_picture),
    _port("image", pictures.picture_bgr, "its picture had red and blue exchanged", no_picture),
    _port("init", ports.noise_by_channel_of_grid, "its noise was laid out by channel", about="noise layout"),
    _port("init", latents.noise_by_channel, "its noise was drawn with tokens last", about="noise layout"),
    _port("init", latents.noise_audio_first, "its noise was drawn for audio before video"),
    _port("first_block", ports.rotary_applied_fp32, "its rotary tables stayed in fp32", in_fp32),
    _port("first_block", ports.rotary_grid_bf16, "its rotary grid was computed in bf16", about="rotary grid"),
    _port("first_block", ports.rotary_grid_fp32, "its rotary grid was computed in fp32", about="rotary grid"),
    _port("first_block", ports.first_sigma_rounded, "its first noise level was exactly 1"),
    _port("first_block", transformer.rotary_interleaved, "its rotary embedding paired neighbouring channels"),
    _port(
        "first_block",
        transformer.rotary_audio_scale_dropped,
        "its cross-modal rotary embedding left out audio's scale factor",
    ),
    _port(
        "first_block",
        ports.query_key_norm_eps_1e5,
        "its query and key norms had an epsilon of 1e-5",
        at_loading=True,
        about="epsilon",
    ),
    _port(
        "first_block",
        ports.query_key_norm_eps_default,
        "its query and key norms had the default epsilon of bf16",
        at_loading=True,
        about="epsilon",
    ),
    _port(
        "first_block",
        transformer.key_norm_eps_default,
        "its key norms of video had the default epsilon of bf16",
        at_loading=True,
        about="epsilon",
    ),
    _port("first_block", serving.sequence_padding_attended, "its self-attention went over padding"),
    _port(
        "first_block",
        transformer.given_tokens_told_sigma,
        "its conditioned tokens were told the step's sigma",
        no_picture,
    ),
    _port("first_block", ports.v2a_off_in_every_pass, "it left V2A out", _v2a_is(off=False), about="v2a"),
    _port(
        "first_block",
        ports.v2a_on_in_every_pass,
        "it ran V2A though it was switched off",
        _v2a_is(off=True),
        about="v2a",
    ),
    _port(
        "passes",
        transformer.picture_tokens_use_step_sigma,
        "its x0 of conditioned tokens was taken with the step's one sigma",
        no_picture,
    ),
    _port("guided", guidance.rescale_dropped, "its guided prediction was not rescaled", about="rescale"),
    _port("guided", guidance.rescale_per_token, "its rescale was measured token by token", about="rescale"),
    _port("frames", decoding.frames_rounded, "its pixels were rounded to bytes"),
    _port("sound", ports.resampling_filter_bf16, "its resampling filter was computed in bf16"),
    _port("sound", ports.antialias_filters_bf16, "its anti-alias filters were computed in bf16", about="activations"),
    _port("sound", decoding.vocoder_aliased, "its vocoder's activations were not anti-aliased", about="activations"),
)
PORT_DEFECTS: Final = {one.name: one for one in _ALL}


def defects_at(*sites: str) -> frozenset[str]:
    """The names of the port defects that act at one of some sites."""
    return frozenset(name for name, one in PORT_DEFECTS.items() if one.sites[0] in sites)


def may_go_together(one: str, other: str) -> bool:
    """False for two ways to get the same thing wrong."""
    return not PORT_DEFECTS[one].about or PORT_DEFECTS[one].about != PORT_DEFECTS[other].about
