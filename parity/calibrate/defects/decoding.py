"""Defects of the decoders: latent to frames, latent to mel, mel to waveform.

Axes: B clip, C channel, F frame, H row, W column, T latent audio frame, M mel bin, N sample.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from parity.calibrate.defects.defect import SUBTLE, Defect, Facet, edited, wrapped
from parity.calibrate.defects.variant import TILES, WIDE_TILES
from runners.ltx23 import audio_decoder, video_decoder, video_tiling
from runners.ltx23.antialiased_activation import AntiAliasedSnake
from runners.ltx23.audio_vae_layers import Upsample
from runners.ltx23.bandwidth_extension import ExtendedVocoder, ShortTimeFourier
from runners.ltx23.latents import AUDIO_HOP_SAMPLES
from runners.ltx23.stages import audio_decoding, video_decoding
from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_tiling import Tile, Tiling, temporal_intervals

Original = Callable[..., Any]
FRAMES: Final[frozenset[Facet]] = frozenset({"frames"})
SOUND: Final[frozenset[Facet]] = frozenset({"audio"})
FRAMES_TAP: Final = ("decode/frames",)
MEL_TAP: Final = ("decode/mel",)
WAVEFORM_TAP: Final = ("decode/waveform",)


def _double_one_deviation(decoder: VideoDecoder) -> None:
    decoder.per_channel_statistics.get_buffer("std-of-means")[5] *= 2.0


def _look_back_only(decoder: VideoDecoder) -> None:
    decoder.config = replace(decoder.config, causal_decoder=not decoder.config.causal_decoder)


def _one_frame_late(original: Original, *args: Any) -> Iterator[Tensor]:
    frames = torch.cat(list(original(*args)))
    yield torch.cat((frames[:1], frames[:-1]))


def _rounded(_: Original, pixels: Tensor) -> Tensor:
    unit = pixels.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    frames: Tensor = rearrange(unit.mul_(255.0).round_().to(torch.uint8)[0], "c f h w -> f h w c")
    return frames


def _statistics_bin_major(_: Original, statistics: Any, latent: Tensor) -> Tensor:
    deviation, mean = (statistics.get_buffer(name).to(latent) for name in ("std-of-means", "mean-of-means"))
    rows = rearrange(latent, "b c t m -> b t (m c)")
    restored: Tensor = rearrange(rows * deviation + mean, "b t (m c) -> b c t m", c=latent.shape[1])
    return restored


def _last_sample_dropped(_: Original, upsample: Upsample, x: Tensor) -> Tensor:
    doubled: Tensor = upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return doubled[:, :, :-1, :]


def _residual_dropped(vocoder: ExtendedVocoder) -> None:
    vocoder.bwe_generator.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))


def _decimal_logarithm(vocoder: ExtendedVocoder) -> None:
    vocoder.mel_stft.register_forward_hook(lambda _module, _inputs, output: output / math.log(10))


def _centred_frames(_: Original, stft: ShortTimeFourier, waveform: Tensor) -> Tensor:
    before = stft.padding // 2
    padded = F.pad(waveform[:, None, :], (before, stft.padding - before))
    real, imaginary = F.conv1d(padded, stft.forward_basis, stride=stft.hop_length).chunk(2, dim=1)
    return torch.sqrt(real**2 + imaginary**2)


def _one_mel_frame_late(original: Original, *args: Any) -> Any:
    waveform, rate_hz = original(*args)
    late = AUDIO_HOP_SAMPLES * rate_hz // 16000
    return F.pad(waveform, (late, -late)), rate_hz


def _half_as_loud(original: Original, *args: Any) -> Any:
    waveform, rate_hz = original(*args)
    return waveform / 2, rate_hz


def _stereo_exchanged(original: Original, *args: Any) -> Any:
    waveform, rate_hz = original(*args)
    return waveform.flip(0), rate_hz


def _limited_range(original: Original, pixels: Tensor) -> Tensor:
    full: Tensor = original(pixels)  # uint8 (F, H, W, C)
    return (full.float() * (219.0 / 255.0) + 16.0).to(torch.uint8)


def _side_by_side(
    original: Original, latent_shape: tuple[int, int, int], tiling: Tiling, scale: tuple[int, int, int]
) -> Any:
    return original(latent_shape, replace(tiling, overlap_px=0, overlap_frames=0), scale)


def _counted(original: Original, chunk: Any, tile: Tile, *rest: Any) -> None:
    before = chunk.weights.clone()
    original(chunk, tile, *rest)
    chunk.weights.copy_(before)
    chunk.weights[..., tile.height.out, tile.width.out] += 1.0


def _mono(original: Original, *args: Any) -> Any:
    waveform, rate_hz = original(*args)
    return waveform.mean(dim=0, keepdim=True).repeat(waveform.shape[0], 1), rate_hz


DECODING_DEFECTS: Final = (
    Defect(
        id="video_statistics_of_one_channel",
        component="video_decoder",
        description="the deviation of one latent channel is doubled in the decoder",
        first_taps=FRAMES_TAP,
        apply=edited(VideoDecoder, _double_one_deviation),
        shows_in=SUBTLE,
    ),
    Defect(
        id="video_decoder_causal",
        component="video_decoder",
        description="the decoder does not look ahead in time",
        first_taps=FRAMES_TAP,
        apply=edited(VideoDecoder, _look_back_only),
        shows_in=FRAMES,
    ),
    Defect(
        id="video_patches_transposed",
        component="video_decoder",
        description="rows and columns of the decoder's pixel patches are exchanged",
        first_taps=FRAMES_TAP,
        apply=wrapped(
            video_decoder,
            "unpatchify",
            lambda original, x, patch: rearrange(x, "b (c q r) f h w -> b c f (h q) (w r)", q=patch, r=patch),
        ),
        shows_in=FRAMES,
    ),
    Defect(
        id="frames_one_late",
        component="stages.video_decoding",
        description="every frame comes one frame late",
        first_taps=FRAMES_TAP,
        apply=wrapped(video_decoding, "decode_frames", _one_frame_late),
        shows_in=FRAMES | {"av_offset"},
    ),
    Defect(
        id="frames_rounded",
        component="video_tiling",
        description="pixels are rounded to bytes instead of cut off",
        first_taps=FRAMES_TAP,
        apply=wrapped(video_tiling, "to_bytes", _rounded),
        shows_in=SUBTLE,
    ),
    Defect(
        id="audio_statistics_bin_major",
        component="audio_decoder",
        description="latent statistics of audio run through bins before channels",
        first_taps=MEL_TAP,
        apply=wrapped(audio_decoder.AudioChannelStatistics, "denormalize", _statistics_bin_major),
        shows_in=SOUND,
    ),
    Defect(
        id="mel_last_sample_dropped",
        component="audio_vae_layers",
        description="upsampling in time drops the last sample instead of the first",
        first_taps=MEL_TAP,
        apply=wrapped(Upsample, "forward", _last_sample_dropped),
        shows_in=SOUND,
    ),
    Defect(
        id="vocoder_aliased",
        component="antialiased_activation",
        description="the vocoder's activations are not anti-aliased",
        first_taps=WAVEFORM_TAP,
        apply=wrapped(AntiAliasedSnake, "forward", lambda original, snake, x: snake.act(x)),
        shows_in=SOUND,
    ),
    Defect(
        id="extension_residual_dropped",
        component="bandwidth_extension",
        description="nothing is added above the vocoder's band",
        first_taps=WAVEFORM_TAP,
        apply=edited(ExtendedVocoder, _residual_dropped),
        shows_in=SOUND,
    ),
    Defect(
        id="extension_frames_centred",
        component="bandwidth_extension",
        description="Fourier frames of the extension are centred instead of causal",
        first_taps=WAVEFORM_TAP,
        apply=wrapped(ShortTimeFourier, "forward", _centred_frames),
        shows_in=SUBTLE,
    ),
    Defect(
        id="extension_decimal_logarithm",
        component="bandwidth_extension",
        description="the extension's mel spectrogram has the decimal logarithm",
        first_taps=WAVEFORM_TAP,
        apply=edited(ExtendedVocoder, _decimal_logarithm),
        shows_in=SOUND,
    ),
    Defect(
        id="stereo_exchanged",
        component="stages.audio_decoding",
        description="left and right are exchanged",
        first_taps=WAVEFORM_TAP,
        apply=wrapped(audio_decoding, "decode_audio", _stereo_exchanged),
        shows_in=SOUND,
    ),
    Defect(
        id="sound_half_as_loud",
        component="stages.audio_decoding",
        description="the waveform is halved, as if two channels were averaged",
        first_taps=WAVEFORM_TAP,
        apply=wrapped(audio_decoding, "decode_audio", _half_as_loud),
        shows_in=frozenset({"audio_level"}),
    ),
    Defect(
        id="sound_one_mel_frame_late",
        component="stages.audio_decoding",
        description="the sound starts one mel frame (10 ms) late",
        first_taps=WAVEFORM_TAP,
        apply=wrapped(audio_decoding, "decode_audio", _one_mel_frame_late),
        shows_in=SOUND | {"audio_lag", "av_offset"},
    ),
    Defect(
        id="frames_limited_range",
        component="video_tiling",
        description="frames span 16 to 235 instead of 0 to 255",
        first_taps=FRAMES_TAP,
        apply=wrapped(video_tiling, "to_bytes", _limited_range),
        shows_in=FRAMES,
    ),
    Defect(
        id="tiles_without_overlap",
        component="video_tiling",
        description="tiles stand side by side and are not blended",
        first_taps=FRAMES_TAP,
        apply=wrapped(
            video_tiling,
            "make_tiles",
            _side_by_side,
            when=lambda latent_shape, tiling, scale: len(temporal_intervals(latent_shape[0], tiling, scale[0])) > 1,
        ),
        shows_in=FRAMES,
        variant=TILES,
    ),
    Defect(
        id="tiles_divided_by_count",
        component="video_tiling",
        description="where masks do not add up to one, the sum of tiles is divided by how many they are there",
        first_taps=FRAMES_TAP,
        apply=wrapped(video_tiling._Chunk, "add", _counted, when=lambda chunk, *_: chunk.weights is not None),
        shows_in=FRAMES,
        variant=WIDE_TILES,
    ),
    Defect(
        id="mono_on_both_channels",
        component="stages.audio_decoding",
        description="both channels carry their mean",
        first_taps=WAVEFORM_TAP,
        apply=wrapped(audio_decoding, "decode_audio", _mono),
        shows_in=SOUND,
    ),
)
