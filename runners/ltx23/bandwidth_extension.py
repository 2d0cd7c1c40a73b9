"""Bandwidth extension: a second generator adds to the resampled vocoder waveform what lies above the vocoder's band.

Axes: B clip, S stereo channel, T frame, W mel bin, K frequency bin, N sample.
Source: ltx_core.model.audio_vae.vocoder.{VocoderWithBWE, MelSTFT, UpSample1d} 1.0.0. Everything runs in the weights'
dtype, or, with the reference switch `vocoder_fp32` (since 1.1.2), in float32.
"""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from runners.ltx23.vocoder import Vocoder
from runners.ltx23.vocoder_config import MEL_BINS, ExtendedVocoderConfig, read_vocoder_config
from runners.releases import ReleaseBehaviours

MEL_FLOOR = 1e-5  # magnitudes below it are lifted before the logarithm
ROLLOFF = 0.99  # pass band of the resampling filter, as a share of the lower rate's band
LOBES = 6  # zero crossings of its sinc on each side


def resampling_filter(ratio: int) -> Tensor:
    """(1, 1, taps) float32 sinc under a Hann window, for `ratio` output samples for each input sample.

    Source: torchaudio.functional.resample's filter (sinc_interp_hann), as the reference builds it.
    """
    width = math.ceil(LOBES / ROLLOFF)  # input samples on each side
    with torch.device("cpu"):  # real values even where modules are built on the meta device
        time = (torch.arange(2 * width * ratio + 1) / ratio - width) * ROLLOFF
        window = torch.cos(time.clamp(-LOBES, LOBES) * math.pi / LOBES / 2) ** 2
        return (torch.sinc(time) * window * ROLLOFF / ratio).view(1, 1, -1)


def resample(x: Tensor, ratio: int) -> Tensor:
    """Interpolate (B, S, N) to (B, S, ratio * N) in its own dtype; the edges continue as constants."""
    channels, samples = x.shape[1], x.shape[2]
    edge = math.ceil(LOBES / ROLLOFF)
    x = F.pad(x, (edge, edge), mode="replicate")
    # Computed afresh: no checkpoint has this filter, and one kept as a buffer would be rounded by `.to(bfloat16)`,
    # which officially happens only on the way into a bfloat16 convolution.
    taps = resampling_filter(ratio).to(x).expand(channels, -1, -1)
    x = ratio * F.conv_transpose1d(x, taps, stride=ratio, groups=channels)
    start = 2 * edge * ratio
    return x[..., start : start + ratio * samples]


class ShortTimeFourier(nn.Module):
    """Magnitudes of windowed Fourier frames by a convolution with bases from the checkpoint.

    A frame ends with its hop: all padding lies before the first sample.
    """

    forward_basis: Tensor
    inverse_basis: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.padding = max(0, n_fft - hop_length)
        rows = 2 * (n_fft // 2 + 1)  # real parts, then imaginary parts
        self.register_buffer("forward_basis", torch.zeros(rows, 1, n_fft))
        self.register_buffer("inverse_basis", torch.zeros(rows, 1, n_fft))  # in the checkpoint, used by nothing here

    def forward(self, waveform: Tensor) -> Tensor:
        """Analyze (B, N) into magnitudes (B, K, T)."""
        padded = F.pad(waveform[:, None, :], (self.padding, 0))
        spectrum = F.conv1d(padded, self.forward_basis, stride=self.hop_length)  # (B, 2 K, T)
        real, imaginary = spectrum.chunk(2, dim=1)
        return torch.sqrt(real**2 + imaginary**2)


class MelSpectrogram(nn.Module):
    """Log-mel spectrogram whose Fourier and mel bases are the checkpoint's; a fresh module holds zeros."""

    mel_basis: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.stft_fn = ShortTimeFourier(n_fft, hop_length)
        self.register_buffer("mel_basis", torch.zeros(MEL_BINS, n_fft // 2 + 1))

    def forward(self, waveform: Tensor) -> Tensor:
        """Analyze (B, N) into (B, W, T)."""
        magnitude: Tensor = self.stft_fn(waveform)
        mel = torch.matmul(self.mel_basis.to(magnitude.dtype), magnitude)
        return torch.log(torch.clamp(mel, min=MEL_FLOOR))


class ExtendedVocoder(nn.Module):
    """Vocoder, its resampled waveform, and the residual that the extension generates from its spectrogram."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {"": "vocoder."}

    def __init__(self, config: ExtendedVocoderConfig, reference: ReleaseBehaviours) -> None:
        super().__init__()
        self.config = config
        self.computes_fp32 = reference.vocoder_fp32
        self.vocoder = Vocoder(config.vocoder)
        self.bwe_generator = Vocoder(config.extension)
        self.mel_stft = MelSpectrogram(config.n_fft, config.hop_length)

    @property
    def output_sampling_rate_hz(self) -> int:
        """Rate of the waveform."""
        return self.config.extension.output_sampling_rate_hz

    def forward(self, mel: Tensor) -> Tensor:
        """Generate a waveform at the extended rate.

        Args:
            mel: (B, 2, T, 64) log-mel spectrogram of both stereo channels, in the weights' dtype.
        Returns: (B, 2, N) in the same dtype, within [-1, 1].
        Raises: ShapeError for any other shape.
        """
        if not self.computes_fp32:
            return self._generate(mel)
        state = dict(chain(self.named_parameters(), self.named_buffers()))
        if mel.dtype == torch.float32 and all(tensor.dtype == torch.float32 for tensor in state.values()):
            return self._generate(mel)
        # The definition of 1.1.2 and later: float32 arithmetic on the weights as they are, the result cast back. The
        # reference gets there by an autocast to float32, which a CPU refuses; float32 copies give the same numbers.
        copies = {name: tensor.float() for name, tensor in state.items()}
        waveform: Tensor = functional_call(self, copies, (mel.float(),))
        return waveform.to(mel.dtype)

    def _generate(self, mel: Tensor) -> Tensor:
        narrow: Tensor = self.vocoder(mel)  # (B, S, N) at the vocoder's rate
        clips, samples = narrow.shape[0], narrow.shape[2]
        # Whole hops, so that frames times hop is the length again
        narrow = F.pad(narrow, (0, -samples % self.config.hop_length))
        frames = self.mel_stft(rearrange(narrow, "B S N -> (B S) N"))
        residual = self.bwe_generator(rearrange(frames, "(B S) W T -> B S T W", B=clips))
        wide = torch.clamp(residual + resample(narrow, self.config.ratio), -1, 1)
        return wide[..., : samples * self.config.ratio]


def vocoder_from_config(section: Mapping[str, Any], reference: ReleaseBehaviours) -> Vocoder | ExtendedVocoder:
    """Build the vocoder that the checkpoint configuration's `vocoder` section describes.

    A flat section gives a plain `Vocoder`, which no release runs in another precision than its weights'.
    Raises: ConfigError naming the key whose value is not supported.
    """
    config = read_vocoder_config(section)
    if isinstance(config, ExtendedVocoderConfig):
        return ExtendedVocoder(config, reference)
    return Vocoder(config)
