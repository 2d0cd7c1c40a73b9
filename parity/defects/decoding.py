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

from parity.defects.defect import Defect, Facet, edits, replaces, wrapped
from parity.defects.variant import TILES, WIDE_TILES
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
FRAMES_TAP: Final = "decode/frames"
MEL_TAP: Final = "decode/mel"
WAVEFORM_TAP: Final = "decode/waveform"


@edits(VideoDecoder, FRAMES_TAP)
def video_statistics_of_one_channel(decoder: VideoDecoder) -> None:
    """The deviation of one latent channel is doubled in the decoder."""
    decoder.per_channel_statistics.get_buffer("std-of-means")[5] *= 2.0


@edits(VideoDecoder, FRAMES_TAP, shows_in=FRAMES)
def video_decoder_causal(decoder: VideoDecoder) -> None:
    """The decoder does not look ahead in time."""
    decoder.config = replace(decoder.config, causal_decoder=not decoder.config.causal_decoder)


@replaces(video_decoder, "unpatchify", FRAMES_TAP, component="video_decoder", shows_in=FRAMES)
def video_patches_transposed(original: Original, x: Any, patch: Any) -> Any:
    """Rows and columns of the decoder's pixel patches are exchanged."""
    return rearrange(x, "b (c q r) f h w -> b c f (h q) (w r)", q=patch, r=patch)


@replaces(
    video_decoding, "decode_frames", FRAMES_TAP, component="stages.video_decoding", shows_in=FRAMES | {"av_offset"}
)
def frames_one_late(original: Original, *args: Any) -> Iterator[Tensor]:
    """Every frame comes one frame late."""
    frames = torch.cat(list(original(*args)))
    yield torch.cat((frames[:1], frames[:-1]))


@replaces(video_tiling, "to_bytes", FRAMES_TAP)
def frames_rounded(_: Original, pixels: Tensor) -> Tensor:
    """Pixels are rounded to bytes instead of cut off."""
    unit = pixels.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    frames: Tensor = rearrange(unit.mul_(255.0).round_().to(torch.uint8)[0], "c f h w -> f h w c")
    return frames


@replaces(audio_decoder.AudioChannelStatistics, "denormalize", MEL_TAP, shows_in=SOUND)
def audio_statistics_bin_major(_: Original, statistics: Any, latent: Tensor) -> Tensor:
    """Latent statistics of audio run through bins before channels."""
    deviation, mean = (statistics.get_buffer(name).to(latent) for name in ("std-of-means", "mean-of-means"))
    rows = rearrange(latent, "b c t m -> b t (m c)")
    restored: Tensor = rearrange(rows * deviation + mean, "b t (m c) -> b c t m", c=latent.shape[1])
    return restored


@replaces(Upsample, "forward", MEL_TAP, shows_in=SOUND)
def mel_last_sample_dropped(_: Original, upsample: Upsample, x: Tensor) -> Tensor:
    """Upsampling in time drops the last sample instead of the first."""
    doubled: Tensor = upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return doubled[:, :, :-1, :]


@replaces(AntiAliasedSnake, "forward", WAVEFORM_TAP, shows_in=SOUND)
def vocoder_aliased(original: Original, snake: Any, x: Any) -> Any:
    """The vocoder's activations are not anti-aliased."""
    return snake.act(x)


@edits(ExtendedVocoder, WAVEFORM_TAP, shows_in=SOUND)
def extension_residual_dropped(vocoder: ExtendedVocoder) -> None:
    """Nothing is added above the vocoder's band."""
    vocoder.bwe_generator.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))


def _centred_frames(_: Original, stft: ShortTimeFourier, waveform: Tensor) -> Tensor:
    before = stft.padding // 2
    padded = F.pad(waveform[:, None, :], (before, stft.padding - before))
    real, imaginary = F.conv1d(padded, stft.forward_basis, stride=stft.hop_length).chunk(2, dim=1)
    return torch.sqrt(real**2 + imaginary**2)


extension_frames_centred = Defect(
    id="extension_frames_centred",
    component="bandwidth_extension",
    description="Fourier frames of the extension are centred instead of causal",
    first_taps=(WAVEFORM_TAP,),
    apply=wrapped(ShortTimeFourier, "forward", _centred_frames),
)


@edits(ExtendedVocoder, WAVEFORM_TAP, shows_in=SOUND)
def extension_decimal_logarithm(vocoder: ExtendedVocoder) -> None:
    """The extension's mel spectrogram has the decimal logarithm."""
    vocoder.mel_stft.register_forward_hook(lambda _module, _inputs, output: output / math.log(10))


@replaces(audio_decoding, "decode_audio", WAVEFORM_TAP, component="stages.audio_decoding", shows_in=SOUND)
def stereo_exchanged(original: Original, *args: Any) -> Any:
    """Left and right are exchanged."""
    waveform, rate_hz = original(*args)
    return waveform.flip(0), rate_hz


@replaces(
    audio_decoding, "decode_audio", WAVEFORM_TAP, component="stages.audio_decoding", shows_in=frozenset({"audio_level"})
)
def sound_half_as_loud(original: Original, *args: Any) -> Any:
    """The waveform is halved, as if two channels were averaged."""
    waveform, rate_hz = original(*args)
    return waveform / 2, rate_hz


@replaces(
    audio_decoding,
    "decode_audio",
    WAVEFORM_TAP,
    component="stages.audio_decoding",
    shows_in=SOUND | {"audio_lag", "av_offset"},
)
def sound_one_mel_frame_late(original: Original, *args: Any) -> Any:
    """The sound starts one mel frame (10 ms) late."""
    waveform, rate_hz = original(*args)
    late = AUDIO_HOP_SAMPLES * rate_hz // 16000
    return F.pad(waveform, (late, -late)), rate_hz


@replaces(video_tiling, "to_bytes", FRAMES_TAP, shows_in=FRAMES)
def frames_limited_range(original: Original, pixels: Tensor) -> Tensor:
    """Frames span 16 to 235 instead of 0 to 255."""
    full: Tensor = original(pixels)  # uint8 (F, H, W, C)
    return (full.float() * (219.0 / 255.0) + 16.0).to(torch.uint8)


@replaces(
    video_tiling,
    "make_tiles",
    FRAMES_TAP,
    shows_in=FRAMES,
    variant=TILES,
    when=lambda latent_shape, tiling, scale: len(temporal_intervals(latent_shape[0], tiling, scale[0])) > 1,
)
def tiles_without_overlap(
    original: Original, latent_shape: tuple[int, int, int], tiling: Tiling, scale: tuple[int, int, int]
) -> Any:
    """Tiles stand side by side and are not blended."""
    return original(latent_shape, replace(tiling, overlap_px=0, overlap_frames=0), scale)


@replaces(
    video_tiling._Chunk,
    "add",
    FRAMES_TAP,
    shows_in=FRAMES,
    variant=WIDE_TILES,
    when=lambda chunk, *_: chunk.weights is not None,
)
def tiles_divided_by_count(original: Original, chunk: Any, tile: Tile, *rest: Any) -> None:
    """The sum of tiles is divided by their number where masks do not add up to one."""
    before = chunk.weights.clone()
    original(chunk, tile, *rest)
    chunk.weights.copy_(before)
    chunk.weights[..., tile.height.out, tile.width.out] += 1.0


@replaces(audio_decoding, "decode_audio", WAVEFORM_TAP, component="stages.audio_decoding", shows_in=SOUND)
def mono_on_both_channels(original: Original, *args: Any) -> Any:
    """Both channels carry their mean."""
    waveform, rate_hz = original(*args)
    return waveform.mean(dim=0, keepdim=True).repeat(waveform.shape[0], 1), rate_hz
