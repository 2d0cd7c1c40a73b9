"""Reading the `vae` section: values, defaults and everything that is refused by name."""

from typing import Any

import pytest
import torch

from runners.errors import ConfigError
from runners.ltx23.video_encoder import VideoEncoder
from runners.ltx23.video_vae_config import VaeBlock, VideoVaeConfig


def read(**section: Any) -> VideoVaeConfig:
    return VideoVaeConfig.from_checkpoint({"vae": section})


def test_blocks_take_the_defaults_of_their_kind() -> None:
    config = read(
        encoder_blocks=[["res_x", 3], ["compress_all_res", {}], ["compress_time", 1]],
        decoder_blocks=[["res_x", {"num_layers": 2, "inject_noise": True}], ["compress_all", {}], ["res_x_y", {}]],
    )
    assert config.encoder_blocks == (
        VaeBlock(kind="res_x", num_layers=3),
        VaeBlock(kind="compress_all_res", multiplier=2),
        VaeBlock(kind="compress_time"),
    )
    assert config.decoder_blocks == (
        VaeBlock(kind="res_x", num_layers=2, inject_noise=True),
        VaeBlock(kind="compress_all"),
        VaeBlock(kind="res_x_y", multiplier=2),
    )
    assert [stage.out_channels for stage in config.encoder_stages()] == [128, 256, 256]
    assert [stage.out_channels for stage in config.decoder_stages()] == [512, 512, 512]  # latent end first
    assert config.decoder_scale() == (2, 8, 8)


def test_a_silent_file_pads_with_reflection_in_the_decoder_only_and_conditions_it() -> None:
    config = read()
    assert (config.encoder_padding, config.decoder_padding) == ("zeros", "reflect")
    assert config.timestep_conditioning
    assert read(spatial_padding_mode="circular").encoder_padding == "circular"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"decoder_blocks": [["attn_res_x", {"num_layers": 1, "attention_head_dim": 8}]]}, "attn_res_x"),
        ({"encoder_blocks": [["attn_res_x", 1]]}, "attn_res_x"),
        ({"decoder_blocks": [["compress_all_res", {}]]}, "compress_all_res"),
        ({"decoder_blocks": [["res_x", {}]]}, "num_layers"),
        ({"decoder_blocks": [["res_x", {"num_layers": True}]]}, "num_layers"),
        ({"decoder_blocks": [["compress_all", {"multiplier": 0}]]}, "multiplier"),
        ({"decoder_blocks": [["compress_all", {"residual": 1}]]}, "residual"),
        ({"decoder_blocks": [["res_x"]]}, r"decoder_blocks\[0\]"),
        ({"decoder_blocks": "res_x"}, "decoder_blocks"),
        ({"decoder_blocks": [["res_x", "four"]]}, "four"),
        ({"decoder_blocks": [["compress_time", {"multiplier": 3}]]}, "multiplier 3"),
        ({"decoder_blocks": [["res_x_y", {"inject_noise": True}]]}, "multiplier 2"),
        ({"decoder_blocks": [["compress_all", {"residual": True, "multiplier": 16}]]}, "multiplier 16"),
        ({"encoder_blocks": [["compress_time_res", {"multiplier": 4}]]}, "multiplier 4"),
        ({"latent_channels": 2, "encoder_blocks": [["compress_all_res", {"multiplier": 1}]]}, "2 output channels"),
        ({"norm_layer": "group_norm", "latent_channels": 40, "encoder_blocks": [["res_x", 1]]}, "40"),
        ({"encoder_blocks": [["res_x", 10**9]]}, "num_layers is 1000000000; wanted a whole number from 0 to 100"),
        ({"encoder_blocks": [["res_x", 1]] * 101}, "wanted a list of 0 to 100 entries"),
        (
            {"encoder_blocks": [["compress_all_x_y", {"multiplier": 4}]] * 7},
            "2097152; wanted .* to 1048576",
        ),
        ({"decoder_base_channels": 10**15}, "decoder_base_channels is 1000000000000000; wanted .* to 1048576"),
        ({"decoder_blocks": [[["res_x"], {}]]}, r"block kind \['res_x'\]"),
        ({"norm_layer": "layer_norm"}, "layer_norm"),
        ({"latent_log_var": "learned"}, "learned"),
        ({"spatial_padding_mode": "same"}, "same"),
        ({"dims": 2}, "dims is 2"),
        ({"dims": [2, 1]}, "dims"),
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": 4.0}, "patch_size"),
        ({"causal_decoder": "no"}, "causal_decoder"),
        ({"_class_name": "CausalDiffusionVAE"}, "CausalDiffusionVAE"),
    ],
)
def test_what_the_reference_does_not_run_is_refused_by_name(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(**section)


def test_what_the_reference_does_not_read_is_passed_over() -> None:
    plain = {"encoder_blocks": [["res_x", 3], ["compress_space", {}]], "decoder_blocks": [["compress_time", {}]]}
    wordy = {
        "encoder_base_channels": 128,
        "scaling_factor": 1.0,
        "use_quant_conv": False,
        "encoder_blocks": [["res_x", {"num_layers": 3, "inject_noise": False}], ["compress_space", {"multiplier": 7}]],
        "decoder_blocks": [["compress_time", {"residual": True, "dropout": "none"}]],
    }
    assert read(**wordy) == read(**plain)


def test_a_file_without_the_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="transformer"):
        VideoVaeConfig.from_checkpoint({"transformer": {}})


def test_an_encoder_without_log_variance_is_built_and_refuses_pictures_only() -> None:
    encoder = VideoEncoder(read(latent_log_var="none", latent_channels=4))
    assert encoder.state_dict()["conv_out.conv.weight"].shape[0] == 4
    with pytest.raises(ConfigError, match=r"'none'.* no pictures"):
        encoder(torch.zeros(1, 3, 1, 32, 32))
