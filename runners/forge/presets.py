"""Sizes of made models: `tiny` for any CPU and engine, `odd` for bits, `small` for a CPU minute, `full` as released.

A preset is the configuration that a checkpoint carries (the shape of ltx-2.3-22b.config.json) and that of its Gemma
(the shape of a Hugging Face config.json). All but `full` are written as departures from it. What the official code
fixes is left alone: 128 latent channels, 8x16 audio latents, 32x32x8 pixels a video latent, 128 connector registers,
an audio VAE width of 128, which also sizes its latent statistics, and 160 samples a mel frame.

`tiny` is portable: it has the ratios of the released file, which engines may rely on without being wrong for any file
that exists. Both streams and both connectors have the same number of heads, video heads are twice as wide as audio
heads, both connectors are equally deep, and Gemma scales its queries by the width of its heads. All other sizes differ.

`odd` keeps none of these ratios. It shows what equal sizes hide, such as a borrowed head count, and is what native is
held to the official code on, bit for bit; an engine may be right and fail on it. What ties its sizes: the video
connector is as wide as the video stream, the audio connector as the audio stream, and the audio width divides by twice
the heads of either stream, because the rotary tables of the cross-modal attention split it by the video heads for
video tokens and by the audio heads for audio tokens.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.errors import ConfigError

Json = dict[str, Any]

PRESETS = ("tiny", "odd", "small", "full")
_FULL_CONFIG_PATH = Path(__file__).with_name("ltx-2.3-22b.config.json")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of model."""

    name: str
    config: Json  # of the single-file checkpoint
    gemma: Json  # of the Gemma folder
    # Released files hold the audio encoder, which nothing in text and image to video reads. `full` is made without it,
    # since the goldens at full size name the hash of every tensor there was when they were recorded.
    audio_encoder: bool = True


def preset_named(name: str) -> Preset:
    """The preset of that name, freshly built so that a caller may change it.

    Raises: ConfigError for a name that is not one of PRESETS.
    """
    match name:
        case "tiny":
            return Preset(name=name, config=_tiny_config(), gemma=_tiny_gemma())
        case "odd":
            return Preset(name=name, config=_odd_config(), gemma=_odd_gemma())
        case "small":
            return Preset(name=name, config=_small_config(), gemma=_small_gemma())
        case "full":
            return Preset(name=name, config=full_config(), gemma=full_gemma(), audio_encoder=False)
    raise ConfigError(f"There is no preset {name!r}; forge one of {', '.join(PRESETS)}.")


def full_config() -> Json:
    """The configuration in the metadata of the released 22B checkpoint."""
    config: Json = json.loads(_FULL_CONFIG_PATH.read_text())
    return config


def _tiny_config() -> Json:
    config = full_config()
    config["transformer"].update(
        num_layers=4,
        num_attention_heads=5,
        attention_head_dim=32,
        cross_attention_dim=160,
        audio_num_attention_heads=5,
        audio_attention_head_dim=16,
        audio_cross_attention_dim=80,
        caption_channels=72,
        connector_num_attention_heads=5,
        connector_attention_head_dim=32,
        connector_num_layers=2,
        audio_connector_num_attention_heads=5,
        audio_connector_attention_head_dim=16,
    )
    config["vae"].update(
        encoder_blocks=[
            ["compress_space_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_time_res", {"multiplier": 1}],
            ["compress_all_res", {"multiplier": 1}],
            ["compress_all_res", {"multiplier": 2}],
        ],
        decoder_base_channels=10,
        decoder_blocks=[
            ["res_x", {"num_layers": 2}],
            ["compress_space", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_time", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
            ["compress_all", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
        ],
    )
    config["audio_vae"]["model"]["params"]["ddconfig"].update(ch_mult=[1, 1, 1], num_res_blocks=0)
    # Where bf16 has no instructions of its own, time goes into convolutions, whatever their width: few of each kind.
    residual_blocks = {"resblock_kernel_sizes": [3, 11], "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]]}
    config["vocoder"]["vocoder"].update(
        upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[11, 8, 4, 4, 4],
        upsample_initial_channel=160,
        **residual_blocks,
    )
    config["vocoder"]["bwe"].update(
        upsample_rates=[6, 5, 4, 2],
        upsample_kernel_sizes=[12, 11, 8, 4],
        upsample_initial_channel=96,
        **copy.deepcopy(residual_blocks),
    )
    return config


def _odd_config() -> Json:
    config = _tiny_config()
    config["transformer"].update(
        num_attention_heads=6,
        cross_attention_dim=192,
        audio_num_attention_heads=4,
        audio_attention_head_dim=24,
        audio_cross_attention_dim=96,
        connector_num_attention_heads=3,
        connector_attention_head_dim=64,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=48,
        audio_connector_num_layers=1,
    )
    config["audio_vae"]["model"]["params"]["ddconfig"].update(ch_mult=[1, 1, 2], num_res_blocks=1)
    return config


def _small_config() -> Json:
    config = full_config()
    config["transformer"].update(
        num_layers=8,
        num_attention_heads=8,
        attention_head_dim=64,
        cross_attention_dim=512,
        caption_channels=320,
        audio_num_attention_heads=4,
        audio_attention_head_dim=48,
        audio_cross_attention_dim=192,
        connector_num_attention_heads=4,
        connector_attention_head_dim=128,
        connector_num_layers=3,
        audio_connector_num_attention_heads=3,
        audio_connector_attention_head_dim=64,
        audio_connector_num_layers=2,
    )
    config["vae"]["decoder_base_channels"] = 40
    config["vae"]["encoder_blocks"][-1] = ["res_x", {"num_layers": 1}]
    for kind, settings in config["vae"]["encoder_blocks"] + config["vae"]["decoder_blocks"]:
        if kind == "res_x":
            settings["num_layers"] //= 2
    for kind, settings in config["vae"]["encoder_blocks"][:-4]:
        if kind != "res_x":
            settings["multiplier"] = 1
    config["audio_vae"]["model"]["params"]["ddconfig"].update(ch_mult=[1, 2, 3])
    config["vocoder"]["vocoder"]["upsample_initial_channel"] = 448
    config["vocoder"]["bwe"]["upsample_initial_channel"] = 288
    return config


def full_gemma() -> Json:
    """Gemma 3 12B: its public config.json, which LTX-2.3 runs on."""
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255999,
        "eoi_token_index": 256000,
        "eos_token_id": [1, 106],
        "image_token_index": 262144,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": None,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": None,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 3840,
            "initializer_range": 0.02,
            "intermediate_size": 15360,
            "max_position_embeddings": 131072,
            "model_type": "gemma3_text",
            "num_attention_heads": 16,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "rope_theta": 1000000,
            "sliding_window": 1024,
            "sliding_window_pattern": 6,
            "torch_dtype": "float32",
            "use_cache": True,
            "vocab_size": 262208,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "vision_config": {
            "attention_dropout": 0.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "image_size": 896,
            "intermediate_size": 4304,
            "layer_norm_eps": 1e-06,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_channels": 3,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "torch_dtype": "float32",
            "vision_use_head": False,
        },
    }


def _shrunk_gemma(text: Json, vision: Json) -> Json:
    gemma = copy.deepcopy(full_gemma())
    gemma["text_config"].update(text, vocab_size=MADE_VOCABULARY_SIZE)
    gemma["vision_config"].update(vision)
    gemma.update(
        boi_token_index=MADE_VOCABULARY_SIZE - 3,
        eoi_token_index=MADE_VOCABULARY_SIZE - 2,
        image_token_index=MADE_VOCABULARY_SIZE - 1,
        mm_tokens_per_image=4,
    )
    return gemma


MADE_VOCABULARY_SIZE = 880  # of the made tokenizer; its last three ids frame and hold pictures


def _tiny_gemma() -> Json:
    # Five layers with every third one global: both kinds of attention come before and after each other. The window is
    # shorter than an ordinary prompt, so that mixing the two up shows.
    return _shrunk_gemma(
        text={
            "hidden_size": 72,
            "intermediate_size": 200,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 24,
            "query_pre_attn_scalar": 24,
            "sliding_window": 24,
            "sliding_window_pattern": 3,
        },
        vision={
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 56,
        },
    )


def _odd_gemma() -> Json:
    gemma = _tiny_gemma()
    gemma["text_config"].update(num_attention_heads=4, num_key_value_heads=2, head_dim=32, query_pre_attn_scalar=40)
    return gemma


def _small_gemma() -> Json:
    return _shrunk_gemma(
        text={
            "hidden_size": 320,
            "intermediate_size": 1152,
            "num_hidden_layers": 14,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "sliding_window": 48,
        },
        vision={
            "hidden_size": 64,
            "intermediate_size": 152,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
        },
    )
