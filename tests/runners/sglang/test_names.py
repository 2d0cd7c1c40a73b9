"""The renaming table, both ways, for every preset: names only, no tensor is made."""

import pytest

from runners.errors import CheckpointError
from runners.forge.inventory import model_inventory
from runners.forge.presets import PRESETS, preset_named
from runners.sglang.names import COPIES, RENAMING


@pytest.mark.parametrize("name", PRESETS)
def test_every_tensor_has_one_place_and_leads_back_to_its_name(name: str) -> None:
    inventory = model_inventory(preset_named(name))
    found = RENAMING.keys(inventory)
    assert sum(map(len, found.values())) == len(inventory)  # none is dropped
    back = {names.component: names for names in RENAMING.components}
    assert {back[component].to_checkpoint(key) for component, keys in found.items() for key in keys} == set(inventory)


def test_names_worked_by_hand() -> None:
    dit = "model.diffusion_model."
    by_hand = {
        f"{dit}patchify_proj.bias": ("transformer", "patchify_proj.bias"),
        f"{dit}transformer_blocks.3.attn2.k_norm.weight": ("transformer", "transformer_blocks.3.attn2.k_norm.weight"),
        f"{dit}audio_embeddings_connector.transformer_1d_blocks.1.attn1.q_norm.weight": (
            "connectors",
            "audio_connector.transformer_blocks.1.attn1.norm_q.weight",
        ),
        f"{dit}video_embeddings_connector.learnable_registers": ("connectors", "video_connector.learnable_registers"),
        "text_embedding_projection.audio_aggregate_embed.weight": ("connectors", "audio_aggregate_embed.weight"),
        "vae.encoder.down_blocks.1.res_blocks.0.conv2.conv.bias": (
            "vae/image_encoder",
            "down_blocks.1.res_blocks.0.conv2.conv.bias",
        ),
        "vae.decoder.up_blocks.8.res_blocks.1.conv1.conv.bias": (
            "vae",
            "decoder.up_blocks.8.res_blocks.1.conv1.conv.bias",
        ),
        "vae.per_channel_statistics.std-of-means": ("vae", "decoder.per_channel_statistics.std_of_means"),
        "audio_vae.per_channel_statistics.mean-of-means": ("audio_vae", "latents_mean"),
        "audio_vae.decoder.mid.block_1.conv1.conv.bias": ("audio_vae", "decoder.mid.block_1.conv1.conv.bias"),
        "vocoder.bwe_generator.ups.2.weight": ("vocoder", "bwe_generator.ups.2.weight"),
    }
    assert {name: RENAMING.place(name) for name in by_hand} == by_hand


def test_what_has_no_place_is_refused_and_statistics_that_nothing_reads_are_dropped() -> None:
    assert not any(RENAMING.keys(["vae.per_channel_statistics.mean-of-stds"]).values())
    with pytest.raises(CheckpointError, match="no place in SGLang"):
        RENAMING.keys(["duration_head.weight"])
    # Two names for one place would lose a tensor.
    with pytest.raises(CheckpointError, match="does not lead back"):
        RENAMING.keys(["model.diffusion_model.video_embeddings_connector.transformer_blocks.0.bias"])


def test_copies_stand_in_places_that_nothing_else_fills() -> None:
    filled = RENAMING.keys(model_inventory(preset_named("tiny")))
    assert len({(component, key) for _, component, key in COPIES}) == len(COPIES)
    assert not [key for _, component, key in COPIES if key in filled[component]]
