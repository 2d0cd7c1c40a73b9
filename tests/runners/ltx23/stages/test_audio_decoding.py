"""Audio decoding of random latents against the official decoder and vocoder."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from runners.ltx23.audio_decoder import AudioDecoder
from runners.ltx23.stages.audio_decoding import AudioDecodingStage
from runners.ltx23.stages.batch import Batch
from runners.tap import listening


def test_mel_and_waveform_have_the_official_bits(models: SimpleNamespace, make_batch: Callable[..., Batch]) -> None:
    from ltx_core.model.audio_vae import decode_audio

    batch = make_batch(dtype=models.dtype)
    batch.audio_latent = torch.randn(1, 8, 5, 16, generator=torch.Generator().manual_seed(3)).to(models.dtype)
    heard: dict[str, torch.Tensor] = {}
    native = AudioDecodingStage(models.native.build("audio_decoder", AudioDecoder), models.native.vocoder())
    with listening(heard.__setitem__):
        native.forward(batch)
    decoder = models.official.audio_decoder()
    wanted_mel = decoder(batch.audio_latent)
    wanted = decode_audio(batch.audio_latent, decoder, models.official.vocoder())
    assert torch.equal(heard["decode/mel"], wanted_mel)
    assert batch.audio_waveform is not None and batch.audio_waveform.dtype == torch.float32
    assert torch.equal(batch.audio_waveform, wanted.waveform)
    assert batch.sample_rate_hz == wanted.sampling_rate == 48000
    assert heard["decode/waveform"] is batch.audio_waveform
    assert batch.audio_waveform.std() > 1e-3


def test_without_a_latent_it_says_so(make_batch: Callable[..., Batch]) -> None:
    stage = AudioDecodingStage(torch.nn.Identity(), torch.nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="AudioDecodingStage needs audio_latent"):
        stage.forward(make_batch())
