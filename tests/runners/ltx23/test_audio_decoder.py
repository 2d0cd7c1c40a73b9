"""The audio decoder against the official one, bit for bit, and the shape rules worked by hand."""

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runners.errors import ShapeError
from runners.ltx23.audio_decoder import AudioChannelStatistics, AudioDecoder, decode_audio
from runners.ltx23.audio_vae_config import AudioVaeConfig
from runners.ltx23.bandwidth_extension import vocoder_from_config
from runners.ltx23.vocoder import Vocoder
from runners.official.compat import prepare_imports
from runners.releases import ReleaseBehaviours
from runners.tap import listening

DTYPES = [torch.float32, torch.bfloat16]


def section(**sizes: Any) -> dict[str, Any]:
    """The shape of the released section, narrow; `sizes` go into its ddconfig."""
    released = {
        "ch": 20,
        "out_ch": 2,
        "ch_mult": [1, 2, 3],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "resolution": 256,
        "z_channels": 4,
        "double_z": True,
        "dropout": 0.0,
        "in_channels": 2,
        "mid_block_add_attention": False,
        "norm_type": "pixel",
        "causality_axis": "height",
        "mel_bins": 20,
    }
    return {
        "model": {"params": {"sampling_rate": 16000, "ddconfig": {**released, **sizes}}},
        "preprocessing": {"stft": {"hop_length": 160, "causal": True}, "mel": {"n_mel_channels": 20}},
    }


def official() -> ModuleType:
    pytest.importorskip("ltx_core")
    prepare_imports()
    return importlib.import_module("ltx_core.model.audio_vae")


@torch.no_grad()
def randomize(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast, then give every parameter and buffer random values, norms and statistics around one."""
    generator = torch.Generator().manual_seed(5)
    module.to(dtype)
    for name, tensor in module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name or "std" in name:
            tensor.copy_(1 + 0.2 * noise)
        elif tensor.ndim > 1:
            tensor.copy_(noise * tensor[0].numel() ** -0.5)
        else:
            tensor.copy_(0.1 * noise)
    return module.eval()


def pair(config: dict[str, Any], dtype: torch.dtype) -> tuple[nn.Module, AudioDecoder]:
    reference = randomize(official().AudioDecoderConfigurator.from_config({"audio_vae": config}), dtype)
    native = AudioDecoder(AudioVaeConfig.from_dict(config)).to(dtype).eval()
    native.load_state_dict(reference.state_dict(), strict=True)
    return reference, native


def latent(dtype: torch.dtype, batch: int = 2, channels: int = 4, frames: int = 3, bins: int = 5) -> Tensor:
    return torch.randn(batch, channels, frames, bins, generator=torch.Generator().manual_seed(11)).to(dtype)


CONFIGS: dict[str, dict[str, Any]] = {
    "released": {},
    "attending": {"mid_block_add_attention": True, "attn_resolutions": [64, 256]},
    "attends below a low resolution": {"attn_resolutions": [9], "resolution": 37},
    "width": {"causality_axis": "width"},
    "width-compatibility": {"causality_axis": "width-compatibility"},
    "no axis": {"causality_axis": None},
    "group norm": {
        "causality_axis": None, "norm_type": "group", "ch": 32, "z_channels": 4, "mid_block_add_attention": True,
        "attn_resolutions": [128],
    },
    "two levels, one channel, no extra block": {"ch_mult": [2, 1], "out_ch": 1, "num_res_blocks": 0},
    "one level": {"ch_mult": [1], "mel_bins": 7},
    "four levels cropped": {"ch_mult": [1, 1, 2, 1], "mel_bins": 13},
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_the_official_decoder_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    config = section(**CONFIGS[name])
    reference, native = pair(config, dtype)
    given = latent(dtype, bins=8) if name == "group norm" else latent(dtype)
    expected = reference(given)
    assert expected.isfinite().all()
    assert expected.float().std() > 0.01
    assert native(given).dtype == dtype
    assert torch.equal(native(given), expected)


@torch.no_grad()
def test_absent_keys_take_the_official_defaults() -> None:
    config: dict[str, Any] = {"model": {"params": {"ddconfig": {"ch": 16}}}, "variables": {"mel_bins": 9}}
    reference, native = pair(config, torch.float32)
    given = latent(torch.float32, channels=8, bins=2)
    assert torch.equal(native(given), reference(given))
    assert native(given).shape == (2, 2, 9, 9)  # 4 * 3 - 3 frames
    assert any(name.startswith("mid.attn_1.") for name in native.state_dict())


def test_fresh_statistics_leave_a_latent_alone_and_loaded_ones_run_channel_major() -> None:
    statistics = AudioChannelStatistics(6)
    given = torch.arange(24.0).view(1, 2, 4, 3)
    assert torch.equal(statistics.denormalize(given), given)
    statistics.load_state_dict({"std-of-means": torch.ones(6), "mean-of-means": 100.0 * torch.arange(6)})
    moved = statistics.denormalize(given) - given
    expected = torch.tensor([[0.0, 100.0, 200.0], [300.0, 400.0, 500.0]])[None, :, None, :].expand_as(given)
    assert torch.equal(moved, expected)


def test_a_causal_axis_costs_three_frames_and_missing_bins_are_silence() -> None:
    causal = AudioDecoder(AudioVaeConfig(ch=6, z_channels=2, ch_mult=(1, 1, 1), mel_bins=17))
    free = AudioDecoder(AudioVaeConfig(ch=6, z_channels=2, ch_mult=(1, 1, 1), causality_axis=None))
    given = torch.randn(1, 2, 5, 3)
    assert causal(given).shape == (1, 2, 17, 17)
    assert not causal(given)[..., 12:].any()  # three levels of three bins are twelve
    assert causal(given)[..., :12].any()
    assert free(given).shape == (1, 2, 20, 3)  # without mel_bins, the latent's bins are all that remain


def test_latents_that_do_not_fit_are_refused() -> None:
    decoder = AudioDecoder(AudioVaeConfig(ch=20, z_channels=4, ch_mult=(1, 1)))
    with pytest.raises(ShapeError, match=r"4 channels of 6 bins.*statistics of 20.*bins 5"):
        decoder(torch.zeros(1, 4, 3, 6))
    with pytest.raises(ShapeError, match=r"\(1, 5, 3, 4\)"):
        decoder(torch.zeros(1, 5, 3, 4))
    with pytest.raises(ShapeError, match=r"one clip.*\(2, 4, 3, 5\)"):
        decode_audio(latent(torch.float32), decoder, Vocoder.__new__(Vocoder))


def test_checkpoint_prefixes_put_statistics_beside_the_decoder() -> None:
    keys = AudioDecoder(AudioVaeConfig(ch=4, ch_mult=(1,), num_res_blocks=0)).state_dict()
    prefixes = AudioDecoder.CHECKPOINT_PREFIXES
    named = {
        prefixes[head] + key.removeprefix(head) for key in keys for head in [max(filter(key.startswith, prefixes))]
    }
    assert "audio_vae.per_channel_statistics.std-of-means" in named
    assert "audio_vae.decoder.up.0.block.0.conv1.conv.weight" in named


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_decode_audio_equals_the_official_one_and_taps_the_spectrogram(dtype: torch.dtype) -> None:
    package = official()
    decoder_section = section(mel_bins=64, ch=32, ch_mult=[1, 1, 2], z_channels=2)
    vocoder_section = {
        "resblock": "1", "stereo": True, "upsample_initial_channel": 6, "upsample_rates": [3, 2],
        "upsample_kernel_sizes": [5, 4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 2, 3]],
        "output_sampling_rate": 11025,
    }  # fmt: skip
    reference, native = pair(decoder_section, dtype)
    reference_vocoder = randomize(package.VocoderConfigurator.from_config({"vocoder": vocoder_section}), dtype)
    vocoder = vocoder_from_config(vocoder_section, ReleaseBehaviours()).to(dtype)
    vocoder.load_state_dict(reference_vocoder.state_dict(), strict=True)
    given = latent(dtype, batch=1, channels=2, frames=3, bins=16)
    heard: dict[str, Tensor] = {}
    with listening(heard.__setitem__):
        waveform, rate_hz = decode_audio(given, native, vocoder)
    expected = package.decode_audio(given, reference, reference_vocoder)
    assert torch.equal(waveform, expected.waveform)
    assert (waveform.shape, waveform.dtype, rate_hz) == ((2, 54), torch.float32, 11025)  # 9 frames of 6 samples
    assert torch.equal(heard.pop("decode/mel"), reference(given))
    assert not heard
