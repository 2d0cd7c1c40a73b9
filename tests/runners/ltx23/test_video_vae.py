"""Video encoder and decoder against the official classes of 1.0.0, bit for bit, over everything they accept.

Official weights (random, of a scale that keeps activations alive) are loaded strictly by their own names.
"""

from typing import Any

import pytest
import torch
from ltx_core.model.video_vae import VideoDecoderConfigurator, VideoEncoderConfigurator
from torch import nn

from runners.errors import ShapeError
from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_encoder import VideoEncoder
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.releases import ReleaseBehaviours

DTYPES = [torch.bfloat16, torch.float32]
PADDINGS = ["zeros", "reflect", "replicate", "circular"]

# The 2.3 block lists with one layer a stack and few channels; the strides, multipliers and order are the real ones.
TINY: dict[str, Any] = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "patch_size": 4,
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "timestep_conditioning": False,
    "decoder_base_channels": 4,
    "spatial_padding_mode": "zeros",
    "encoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_space_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
        ["compress_time_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
    ],
    "decoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_space", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
        ["compress_time", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
    ],
}


def with_random_weights(module: nn.Module, dtype: torch.dtype, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
            noise = torch.randn(tensor.shape, generator=generator)
            if "std-of-means" in name or (tensor.ndim == 1 and "norm" in name):
                tensor.copy_(1 + 0.2 * noise.abs())
            elif tensor.ndim == 0:
                tensor.fill_(1000.0)
            else:
                tensor.copy_(noise / max(fan_in, 4) ** 0.5)
    return module.to(dtype).eval()


def encoder_pair(vae: dict[str, Any], dtype: torch.dtype) -> tuple[nn.Module, VideoEncoder]:
    official = with_random_weights(VideoEncoderConfigurator.from_config({"vae": vae}), dtype, seed=3)
    native = VideoEncoder(VideoVaeConfig.from_checkpoint({"vae": vae})).to(dtype).eval()
    native.load_state_dict(official.state_dict(), strict=True)
    return official, native


def decoder_pair(vae: dict[str, Any], dtype: torch.dtype) -> tuple[nn.Module, VideoDecoder]:
    official = with_random_weights(VideoDecoderConfigurator.from_config({"vae": vae}), dtype, seed=5)
    native = VideoDecoder(VideoVaeConfig.from_checkpoint({"vae": vae}), ReleaseBehaviours()).to(dtype).eval()
    native.load_state_dict(official.state_dict(), strict=True)
    return official, native


def check_encoder(vae: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    official, native = encoder_pair(vae, dtype)
    pixels = (torch.rand(shape, generator=torch.Generator().manual_seed(7)) * 2 - 1).to(dtype)
    with torch.inference_mode():
        expected, latent = official(pixels), native(pixels)
    assert expected.isfinite().all() and expected.float().std() > 1e-2
    assert latent.dtype == dtype
    assert torch.equal(latent, expected)
    return latent


def check_decoder(vae: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    official, native = decoder_pair(vae, dtype)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)
    kept = latent.clone()
    with torch.inference_mode():
        expected = official(latent, generator=torch.Generator().manual_seed(11))
        pixels = native(latent, torch.Generator().manual_seed(11))
    assert expected.isfinite().all() and expected.float().std() > 1e-2
    assert torch.equal(latent, kept)
    assert pixels.dtype == dtype
    assert torch.equal(pixels, expected)
    return pixels


@pytest.mark.parametrize("dtype", DTYPES)
def test_encoder_of_2_3_equals_official(dtype: torch.dtype) -> None:
    latent = check_encoder(TINY, (2, 3, 9, 64, 96), dtype)
    assert latent.shape == (2, 16, 2, 2, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_encoder_drops_frames_beyond_1_plus_8k_as_official_does(dtype: torch.dtype) -> None:
    latent = check_encoder(TINY, (1, 3, 14, 32, 64), dtype)
    assert latent.shape == (1, 16, 2, 1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_decoder_of_2_3_equals_official(causal: bool, dtype: torch.dtype) -> None:
    pixels = check_decoder(TINY | {"causal_decoder": causal}, (2, 16, 3, 2, 4), dtype)
    assert pixels.shape == (2, 3, 17, 64, 128)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("log_variance", ["uniform", "per_channel", "constant"])
def test_encoder_paddings_and_log_variances(padding: str, log_variance: str, dtype: torch.dtype) -> None:
    vae = TINY | {"spatial_padding_mode": padding, "latent_log_var": log_variance}
    vae["encoder_blocks"] = [["res_x", 1], ["compress_all_res", {"multiplier": 4}], ["compress_space_res", {}]]
    check_encoder(vae, (2, 3, 9, 32, 48), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["pixel_norm", "group_norm"])
def test_encoder_with_every_kind_of_block(norm: str, dtype: torch.dtype) -> None:
    vae = TINY | {"norm_layer": norm, "latent_channels": 32, "in_channels": 2, "patch_size": 2, "decoder_blocks": []}
    vae["encoder_blocks"] = [
        ["compress_space", {}],
        ["res_x_y", {}],
        ["res_x_y", {"multiplier": 1}],
        ["compress_time", 1],
        ["compress_all", {}],
        ["compress_all_x_y", {}],
        ["compress_all_x_y", {"multiplier": 1}],
        ["res_x", 2],
        ["res_x", {"num_layers": 0}],
    ]
    check_encoder(vae, (2, 2, 9, 34, 52), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("causal", [False, True])
def test_decoder_paddings_conditioning_and_injected_noise(causal: bool, padding: str, dtype: torch.dtype) -> None:
    vae = TINY | {"spatial_padding_mode": padding, "causal_decoder": causal, "timestep_conditioning": True}
    vae["decoder_blocks"] = [
        ["res_x", {"num_layers": 2, "inject_noise": True}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x_y", {"inject_noise": True, "multiplier": 1}],
        ["compress_time", {}],
    ]
    check_decoder(vae, (2, 16, 3, 4, 5), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["pixel_norm", "group_norm"])
def test_decoder_with_every_kind_of_block(norm: str, dtype: torch.dtype) -> None:
    vae = TINY | {"norm_layer": norm, "decoder_base_channels": 32, "out_channels": 2, "patch_size": 1}
    vae["encoder_blocks"] = []
    vae["decoder_blocks"] = [
        ["res_x", 1],
        ["compress_all", {"residual": True}],
        ["compress_space", 1],
        ["compress_time", {"multiplier": 2}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x_y", {"multiplier": 1}],
        ["res_x_y", {}],
        ["res_x", {"num_layers": 0}],
    ]
    check_decoder(vae, (2, 16, 2, 2, 3), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_defaults_are_the_official_ones(dtype: torch.dtype) -> None:
    """A section that says next to nothing: 128 latents, reflect in the decoder only, conditioned, no blocks."""
    check_encoder({}, (1, 3, 1, 8, 12), dtype)
    check_decoder({"decoder_base_channels": 1}, (1, 128, 2, 3, 4), dtype)
    assert VideoVaeConfig.from_checkpoint({"vae": {}}).decoder_base_channels == 128


def test_keys_carry_the_checkpoint_prefixes() -> None:
    """Longest module prefix wins, so statistics leave the component's own prefix."""
    config = VideoVaeConfig.from_checkpoint({"vae": TINY})
    for module, component in (
        (VideoEncoder(config), "vae.encoder."),
        (VideoDecoder(config, ReleaseBehaviours()), "vae.decoder."),
    ):
        prefixes = module.CHECKPOINT_PREFIXES
        keys = set()
        for key in module.state_dict():
            own = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len)
            keys.add(prefixes[own] + key.removeprefix(own))
        assert "vae.per_channel_statistics.std-of-means" in keys
        assert component + "conv_in.conv.weight" in keys
        assert not any("encoder.per_channel" in key or "decoder.per_channel" in key for key in keys)


def test_wrong_shapes_are_refused() -> None:
    config = VideoVaeConfig.from_checkpoint({"vae": TINY})
    encoder, decoder = VideoEncoder(config), VideoDecoder(config, ReleaseBehaviours())
    with pytest.raises(ShapeError, match=r"\(1, 4, 9, 32, 32\)"):
        encoder(torch.zeros(1, 4, 9, 32, 32))
    with pytest.raises(ShapeError, match="height 34"):
        encoder(torch.zeros(1, 3, 9, 34, 32))
    with pytest.raises(ShapeError, match="folds"):
        encoder(torch.zeros(1, 3, 9, 32, 36))
    with pytest.raises(ShapeError, match=r"\(1, 15, 2, 2, 2\)"):
        decoder(torch.zeros(1, 15, 2, 2, 2), None)
    reflecting = VideoVaeConfig.from_checkpoint({"vae": {**TINY, "spatial_padding_mode": "reflect"}})
    with pytest.raises(ShapeError, match=r"'reflect' wants at least 2 cells .* got 3 x 1\."):
        VideoDecoder(reflecting, ReleaseBehaviours())(torch.zeros(1, 16, 2, 3, 1), None)


def test_the_full_2_3_shapes_equal_official() -> None:
    layers = {"encoder_blocks": [4, 6, 4, 2, 2], "decoder_blocks": [4, 6, 4, 2, 2]}
    vae = TINY | {"latent_channels": 128, "decoder_base_channels": 128}
    for half, counts in layers.items():
        remaining = iter(counts)
        vae[half] = [
            [kind, {"num_layers": next(remaining)} if kind == "res_x" else options] for kind, options in TINY[half]
        ]
    config = VideoVaeConfig.from_checkpoint({"vae": vae})
    with torch.device("meta"):
        pairs = (
            (VideoEncoder(config), VideoEncoderConfigurator.from_config({"vae": vae}), 0.319e9),
            (VideoDecoder(config, ReleaseBehaviours()), VideoDecoderConfigurator.from_config({"vae": vae}), 0.407e9),
        )
    for native, official, parameters in pairs:
        shapes = {key: tensor.shape for key, tensor in native.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in official.state_dict().items()}
        assert sum(parameter.numel() for parameter in native.parameters()) == pytest.approx(parameters, rel=2e-3)
    assert config.decoder_scale() == (8, 32, 32)
