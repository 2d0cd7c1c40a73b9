"""Sizes of made models: `tiny` for any CPU and engine, `odd` for bits, `small` for a CPU minute, `full` as released.

A preset is the configuration that a checkpoint carries (the shape of ltx-2.3-22b.config.json) and that of its Gemma
(the shape of a Hugging Face config.json). `full` has the released ones; presets.json says how `tiny` and `small` depart
from these, and `odd` from `tiny`. What the official code fixes is left alone: 128 latent channels, 8x16 audio latents,
32x32x8 pixels a video latent, 128 connector registers, an audio VAE width of 128, which also sizes its latent
statistics, and 160 samples a mel frame.

`tiny` is portable: it has the ratios of the released file, which engines may rely on without being wrong for any file
that exists. Both streams and both connectors have the same number of heads, video heads are twice as wide as audio
heads, both connectors are equally deep, and Gemma scales its queries by the width of its heads. All other sizes differ.

`odd` keeps none of these ratios. It shows what equal sizes hide, such as a borrowed head count, and is what native is
held to the official code on, bit for bit; an engine may be right and fail on it. What ties its sizes: the video
connector is as wide as the video stream, the audio connector as the audio stream, and the audio width divides by twice
the heads of either stream, because the rotary tables of the cross-modal attention split it by the video heads for
video tokens and by the audio heads for audio tokens.

Where bf16 has no instructions of its own, time goes into convolutions, whatever their width: `tiny` has few of each
kind. Every third layer of its Gemma is global, so both kinds of attention come before and after each other, and the
window is shorter than an ordinary prompt, so that mixing the two up shows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runners.errors import ConfigError

Json = dict[str, Any]

# Departures that make up each preset, of presets.json.
_DEPARTURES: Final = {"tiny": ("tiny",), "odd": ("tiny", "odd"), "small": ("small",), "full": ()}
PRESETS: Final = tuple(_DEPARTURES)
MADE_VOCABULARY_SIZE: Final = 880  # of the made tokenizer; its last three ids frame and hold pictures
_MADE_TOKENIZER: Final = {
    "text_config": {"vocab_size": MADE_VOCABULARY_SIZE},
    "boi_token_index": MADE_VOCABULARY_SIZE - 3,
    "eoi_token_index": MADE_VOCABULARY_SIZE - 2,
    "image_token_index": MADE_VOCABULARY_SIZE - 1,
    "mm_tokens_per_image": 4,
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of model."""

    name: str
    config: Json  # of the single-file checkpoint
    gemma: Json  # of the Gemma folder
    upsampler: Json  # of the spatial upsampler's file
    # Released files hold the audio encoder, which nothing in text and image to video reads. `full` is made without it,
    # since the goldens at full size name the hash of every tensor there was when they were recorded.
    audio_encoder: bool = True
    lora_rank: int = 6  # of the distilled LoRA


def preset_named(name: str) -> Preset:
    """The preset of that name, freshly built so that a caller may change it.

    Raises: ConfigError for a name that is not one of PRESETS.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}; forge one of {', '.join(PRESETS)}.")
    config, gemma, upsampler = full_config(), full_gemma(), full_upsampler()
    for departure in _DEPARTURES[name]:
        departures = _read("presets.json")[departure]
        _depart(config, departures["config"])
        _depart(gemma, departures["gemma"])
        _depart(upsampler, departures["upsampler"])
    if name == "full":
        return Preset(name=name, config=config, gemma=gemma, upsampler=upsampler, audio_encoder=False, lora_rank=384)
    _depart(gemma, _MADE_TOKENIZER)
    return Preset(name=name, config=config, gemma=gemma, upsampler=upsampler)


def full_config() -> Json:
    """The configuration in the metadata of the released 22B checkpoint."""
    return _read("ltx-2.3-22b.config.json")


def full_gemma() -> Json:
    """Gemma 3 12B: its public config.json, which LTX-2.3 runs on."""
    return _read("gemma-3-12b.config.json")


def full_upsampler() -> Json:
    """The configuration of the x2 spatial upsampler of LTX-2.3: the official classes' defaults but for its width."""
    return _read("ltx-2.3-spatial-upscaler-x2.config.json")


def _read(name: str) -> Json:
    value: Json = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return value


def _depart(config: Json, departures: Json) -> None:
    """Change a configuration in place: tables key by key, anything else as a whole."""
    for key, value in departures.items():
        if isinstance(value, dict):
            _depart(config[key], value)
        else:
            config[key] = value
