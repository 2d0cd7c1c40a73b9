"""The spatial upsampler: worked by hand where it can be, and held to the official classes bit for bit."""

from typing import Any

import pytest
import torch
from ltx_core.model.upsampler import LatentUpsamplerConfigurator, upsample_video
from torch import nn

from runners.errors import ConfigError, ShapeError
from runners.forge.inventory import upsampler_inventory
from runners.forge.tensors import MadeTensors
from runners.ltx23.loading import load
from runners.ltx23.upsampler import Upsampler, shuffled, upsample
from runners.ltx23.upsampler_config import UpsamplerConfig
from runners.ltx23.video_vae_statistics import PerChannelStatistics

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"in_channels": 6, "mid_channels": 32, "num_blocks_per_stage": 2}


def test_a_pixel_shuffle_lays_four_values_of_a_channel_out_row_by_row() -> None:
    x = torch.arange(8.0).reshape(1, 8, 1, 1)  # two channels of four values
    assert shuffled(x)[0].tolist() == [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]]


class Nearest(nn.Module):
    """In place of the network: every cell four times."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return latent.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


def test_the_network_sees_latents_as_the_encoder_computes_them() -> None:
    statistics = PerChannelStatistics(1)
    statistics.load_state_dict({"std-of-means": torch.tensor([2.0]), "mean-of-means": torch.tensor([3.0])})
    seen: list[float] = []
    network = Nearest()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].item()))
    enlarged = upsample(torch.full((1, 1, 1, 1, 1), 5.0), network, statistics)  # type: ignore[arg-type]
    assert seen == [13.0] and enlarged.tolist() == [[[[[5.0, 5.0], [5.0, 5.0]]]]]  # 5 * 2 + 3, and back


@pytest.mark.parametrize("rational", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_has_the_official_bits(rational: bool, dtype: torch.dtype) -> None:
    config = {**SMALL, "rational_resampler": rational}
    source = MadeTensors(upsampler_inventory(config), 3)
    with torch.device("meta"):
        module = Upsampler(UpsamplerConfig.from_dict(config))
    ours = load(module, module.CHECKPOINT_PREFIXES, source, CPU, dtype)
    official = LatentUpsamplerConfigurator.from_config(config).to(dtype).eval()
    official.load_state_dict({name: x.to(dtype) for name, x in source.read(list(source.shapes), CPU).items()})
    statistics = PerChannelStatistics(6)
    statistics.load_state_dict({"std-of-means": torch.rand(6) + 0.5, "mean-of-means": torch.randn(6)})
    statistics.un_normalize = statistics.denormalize  # type: ignore[assignment]  # as the official statistics call it
    encoder = nn.Module()
    encoder.per_channel_statistics = statistics.to(dtype)
    latent = torch.randn(1, 6, 3, 4, 5, dtype=dtype)
    with torch.inference_mode():
        theirs = upsample_video(latent, encoder, official)
        own = upsample(latent, ours, statistics)
    assert own.shape == (1, 6, 3, 8, 10) and torch.equal(own, theirs)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"wants \(B, 6, F, H, W\); got \(1, 5, 3, 4, 5\)"):
        Upsampler(UpsamplerConfig.from_dict(SMALL))(torch.zeros(1, 5, 3, 4, 5))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("temporal_upsample", True, "temporal_upsample is True and would be ignored"),
        ("dims", 2, "dims is 2"),
        ("spatial_scale", 1.5, "spatial_scale is 1.5"),
        ("mid_channels", 48, "mid_channels is 48; wanted a multiple of 32"),
        ("num_blocks_per_stage", 101, "num_blocks_per_stage is 101"),
    ],
)
def test_what_is_not_implemented_is_refused(key: str, value: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        UpsamplerConfig.from_dict({**SMALL, key: value})
