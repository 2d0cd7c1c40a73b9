"""The renaming table, both ways, for every preset: names and shapes only, no tensor is made."""

import importlib
from collections.abc import Callable, Mapping

import pytest
import torch

from runners.diffusers.components import CLASSES, component_arguments
from runners.diffusers.names import GEMMA, renaming_of
from runners.errors import CheckpointError, RunnerError
from runners.forge.inventory import gemma_inventory, model_inventory
from runners.forge.presets import PRESETS, Preset, preset_named
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.renaming import Renaming


def diffusers_shapes(preset: Preset) -> dict[str, dict[str, tuple[int, ...]]]:
    text = preset.gemma["text_config"]
    arguments = component_arguments(preset.config, text["hidden_size"], text["num_hidden_layers"] + 1)
    shapes = {}
    for name, (module, class_name) in CLASSES.items():
        with torch.device("meta"):
            component = getattr(importlib.import_module(module), class_name)(**arguments[name])
        shapes[name] = {
            key: tuple(value.shape)
            for key, value in component.state_dict().items()
            if preset.audio_encoder or name != "audio_vae" or not key.startswith("encoder.")
        }
    return shapes


def table_of(preset: Preset) -> Renaming:
    return renaming_of(VideoVaeConfig.from_checkpoint(preset.config))


@pytest.mark.parametrize("name", PRESETS)
def test_every_tensor_has_one_place_and_every_place_one_tensor_of_its_shape(name: str) -> None:
    preset = preset_named(name)
    inventory = model_inventory(preset)
    table = table_of(preset)
    found = table.keys(inventory)
    there = {
        component: {key: inventory[checkpoint_name] for key, checkpoint_name in keys.items()}
        for component, keys in found.items()
    }
    assert there == diffusers_shapes(preset)
    assert sum(map(len, found.values())) == len(inventory)  # none is dropped
    back = {names.component: names for names in table.components}
    assert {back[component].to_checkpoint(key) for component, keys in found.items() for key in keys} == set(inventory)


def test_gemma_has_transformers_names_but_for_the_head_that_shares_the_embedding() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    preset = preset_named("tiny")
    inventory = gemma_inventory(preset.gemma)
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(Gemma3Config.from_dict(preset.gemma))
    found = GEMMA.keys(inventory)["text_encoder"]
    assert {**found, "lm_head.weight": ""}.keys() == model.state_dict().keys()
    assert {GEMMA.components[0].to_checkpoint(key) for key in found} == set(inventory)


def test_names_worked_by_hand() -> None:
    table = table_of(preset_named("tiny"))
    dit = "model.diffusion_model."
    by_hand: Mapping[str, tuple[str, str]] = {
        f"{dit}patchify_proj.bias": ("transformer", "proj_in.bias"),
        f"{dit}audio_patchify_proj.bias": ("transformer", "audio_proj_in.bias"),
        f"{dit}adaln_single.linear.bias": ("transformer", "time_embed.linear.bias"),
        f"{dit}av_ca_v2a_gate_adaln_single.linear.bias": ("transformer", "av_cross_attn_audio_v2a_gate.linear.bias"),
        f"{dit}transformer_blocks.10.attn2.k_norm.weight": ("transformer", "transformer_blocks.10.attn2.norm_k.weight"),
        f"{dit}video_embeddings_connector.transformer_1d_blocks.1.attn1.q_norm.weight": (
            "connectors",
            "video_connector.transformer_blocks.1.attn1.norm_q.weight",
        ),
        "text_embedding_projection.audio_aggregate_embed.weight": ("connectors", "audio_text_proj_in.weight"),
        # The tiny encoder starts with a compression; its only residual block stands before the second one.
        "vae.encoder.down_blocks.0.conv.conv.bias": ("vae", "encoder.down_blocks.0.downsamplers.0.conv.conv.bias"),
        "vae.encoder.down_blocks.1.res_blocks.0.conv2.conv.bias": (
            "vae",
            "encoder.down_blocks.1.resnets.0.conv2.conv.bias",
        ),
        "vae.decoder.up_blocks.0.res_blocks.0.conv1.conv.bias": ("vae", "decoder.mid_block.resnets.0.conv1.conv.bias"),
        "vae.decoder.up_blocks.8.res_blocks.1.conv1.conv.bias": (
            "vae",
            "decoder.up_blocks.3.resnets.1.conv1.conv.bias",
        ),
        "vae.per_channel_statistics.std-of-means": ("vae", "latents_std"),
        "audio_vae.per_channel_statistics.mean-of-means": ("audio_vae", "latents_mean"),
        "vocoder.bwe_generator.ups.2.weight": ("vocoder", "bwe_generator.upsamplers.2.weight"),
        "vocoder.vocoder.resblocks.3.acts1.0.downsample.lowpass.filter": (
            "vocoder",
            "vocoder.resnets.3.acts1.0.downsample.filter",
        ),
    }
    assert {name: table.place(name) for name in by_hand} == dict(by_hand)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("duration_head.weight", "no place"),
        ("vae.decoder.unknown", None),
        ("model.diffusion_model.norm_q.weight", "does not lead back"),  # would collide with q_norm's place
    ],
)
def test_what_the_table_cannot_take_both_ways_is_refused(name: str, problem: str | None) -> None:
    table = table_of(preset_named("tiny"))
    if problem is None:  # known prefix: left to the comparison with the component, which has no such key
        assert table.keys([name])["vae"] == {"decoder.unknown": name}
        return
    with pytest.raises(CheckpointError, match=problem):
        table.keys([name])


def test_statistics_that_nothing_reads_are_dropped_by_name_only() -> None:
    table = table_of(preset_named("tiny"))
    statistics = "vae.per_channel_statistics."
    found = table.keys([f"{statistics}channel", f"{statistics}mean-of-stds_over_std-of-means"])
    assert not any(found.values())
    with pytest.raises(CheckpointError, match="no place"):
        table.keys([f"{statistics}median"])


def test_a_video_vae_that_diffusers_cannot_group_is_refused() -> None:
    preset = preset_named("tiny")
    preset.config["vae"]["decoder_blocks"].insert(0, ["res_x", {"num_layers": 1}])
    with pytest.raises(RunnerError, match="two res_x in a row"):
        table_of(preset)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c["vae"].update(norm_layer="group_norm", decoder_base_channels=32), "pixel_norm"),
        (lambda c: c["vae"]["encoder_blocks"].append(["compress_all", {}]), "block compress_all of vae.encoder_blocks"),
        (lambda c: c["vae"]["decoder_blocks"].append(["res_x_y", {"multiplier": 2}]), "block res_x_y"),
        (lambda c: c.update(vocoder={"resblock": "1", "stereo": True}), "without bandwidth extension"),
    ],
)
def test_a_configuration_that_diffusers_cannot_build_is_refused_by_name(
    change: Callable[[dict[str, dict[str, object]]], None], what: str
) -> None:
    preset = preset_named("tiny")
    change(preset.config)
    with pytest.raises(RunnerError, match=what):
        component_arguments(preset.config, 72, 6)


def test_the_full_configuration_becomes_what_diffusers_publishes_for_ltx_2_3() -> None:
    # The values of scripts/convert_ltx2_to_diffusers.py in diffusers' repository, version "2.3".
    preset = preset_named("full")
    text = preset.gemma["text_config"]
    arguments = component_arguments(preset.config, text["hidden_size"], text["num_hidden_layers"] + 1)
    published = {
        "transformer": {
            "num_attention_heads": 32,
            "attention_head_dim": 128,
            "cross_attention_dim": 4096,
            "pos_embed_max_pos": 20,
            "base_height": 2048,
            "base_width": 2048,
            "gated_attn": True,
            "cross_attn_mod": True,
            "audio_num_attention_heads": 32,
            "audio_attention_head_dim": 64,
            "audio_cross_attention_dim": 2048,
            "audio_pos_embed_max_pos": 20,
            "audio_sampling_rate": 16000,
            "audio_hop_length": 160,
            "audio_gated_attn": True,
            "audio_cross_attn_mod": True,
            "num_layers": 48,
            "norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "rope_double_precision": True,
            "rope_type": "split",
            "timestep_scale_multiplier": 1000,
            "cross_attn_timestep_scale_multiplier": 1000,
            "use_prompt_embeddings": False,
            "perturbed_attn": True,
        },
        "connectors": {
            "caption_channels": 3840,
            "text_proj_in_factor": 49,
            "video_connector_num_attention_heads": 32,
            "video_connector_attention_head_dim": 128,
            "video_connector_num_layers": 8,
            "video_connector_num_learnable_registers": 128,
            "video_gated_attn": True,
            "audio_connector_num_attention_heads": 32,
            "audio_connector_attention_head_dim": 64,
            "audio_connector_num_layers": 8,
            "audio_connector_num_learnable_registers": 128,
            "audio_gated_attn": True,
            "connector_rope_base_seq_len": 4096,
            "rope_theta": 10000.0,
            "rope_double_precision": True,
            "rope_type": "split",
            "per_modality_projections": True,
            "video_hidden_dim": 4096,
            "audio_hidden_dim": 2048,
            "proj_bias": True,
        },
        "vae": {
            "block_out_channels": (256, 512, 1024, 1024),
            "decoder_block_out_channels": (256, 512, 512, 1024),
            "layers_per_block": (4, 6, 4, 2, 2),
            "decoder_layers_per_block": (4, 6, 4, 2, 2),
            "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
            "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
            "upsample_residual": (False, False, False, False),
            "upsample_factor": (2, 2, 1, 2),
            "encoder_causal": True,
            "decoder_causal": False,
            "encoder_spatial_padding_mode": "zeros",
            "decoder_spatial_padding_mode": "zeros",
            "spatial_compression_ratio": 32,
            "temporal_compression_ratio": 8,
        },
        "audio_vae": {
            "base_channels": 128,
            "output_channels": 2,
            "ch_mult": (1, 2, 4),
            "num_res_blocks": 2,
            "attn_resolutions": None,
            "latent_channels": 8,
            "norm_type": "pixel",
            "causality_axis": "height",
            "mid_block_add_attention": False,
            "sample_rate": 16000,
            "mel_hop_length": 160,
            "mel_bins": 64,
        },
        "vocoder": {
            "hidden_channels": 1536,
            "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
            "upsample_factors": [5, 2, 2, 2, 2, 2],
            "final_act_fn": None,
            "final_bias": False,
            "bwe_hidden_channels": 512,
            "bwe_upsample_kernel_sizes": [12, 11, 4, 4, 4],
            "bwe_upsample_factors": [6, 5, 2, 2, 2],
            "bwe_final_act_fn": None,
            "bwe_final_bias": False,
            "filter_length": 512,
            "hop_length": 80,
            "window_length": 512,
            "input_sampling_rate": 16000,
            "output_sampling_rate": 48000,
        },
    }
    ours = {name: {key: arguments[name][key] for key in values} for name, values in published.items()}
    assert ours == published
