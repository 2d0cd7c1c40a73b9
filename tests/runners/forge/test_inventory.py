import dataclasses
import importlib
from collections import Counter
from typing import Any

import pytest
import torch

from runners.forge.inventory import Inventory, gemma_inventory, model_inventory
from runners.forge.presets import PRESETS, Preset, preset_named
from runners.official.compat import gemma_constant, prepare_imports

pytest.importorskip("ltx_core")

# Official configurator, then where its keys stand in the file: the spelling of the official key filters, turned around.
COMPONENTS = (
    ("transformer.model_configurator", "LTXModelConfigurator", {"": "model.diffusion_model."}),
    (
        "video_vae.model_configurator",
        "VideoEncoderConfigurator",
        {"per_channel_statistics.": "vae.per_channel_statistics.", "": "vae.encoder."},
    ),
    (
        "video_vae.model_configurator",
        "VideoDecoderConfigurator",
        {"per_channel_statistics.": "vae.per_channel_statistics.", "": "vae.decoder."},
    ),
    (
        "audio_vae.model_configurator",
        "AudioDecoderConfigurator",
        {"per_channel_statistics.": "audio_vae.per_channel_statistics.", "": "audio_vae.decoder."},
    ),
    ("audio_vae.model_configurator", "VocoderConfigurator", {"": "vocoder."}),
)
AUDIO_ENCODER = (
    "audio_vae.model_configurator",
    "AudioEncoderConfigurator",
    {"per_channel_statistics.": "audio_vae.per_channel_statistics.", "": "audio_vae.encoder."},
)
# Tensors of the released ltx-2.3-22b-dev.safetensors by prefix, as an engine's port counted them in the file
# (tenstorrent/tt-xla, issue 4542).
RELEASED_TENSORS = {"model": 4444, "vocoder": 1227, "vae": 170, "audio_vae": 102, "text_embedding_projection": 4}
TEXT = {
    "feature_extractor.": "text_embedding_projection.",
    "video_connector.": "model.diffusion_model.video_embeddings_connector.",
    "audio_connector.": "model.diffusion_model.audio_embeddings_connector.",
}


def shapes(module: Any, prefixes: dict[str, str]) -> Inventory:
    found: Inventory = {}
    for key, value in module.state_dict().items():
        prefix = next(prefix for prefix in prefixes if key.startswith(prefix))
        found[prefixes[prefix] + key.removeprefix(prefix)] = tuple(value.shape)
    return found


def official_inventory(preset: Preset) -> Inventory:
    prepare_imports()
    found: Inventory = {}
    with torch.device("meta"), gemma_constant(preset.gemma):
        for module, name, prefixes in (*COMPONENTS, *((AUDIO_ENCODER,) if preset.audio_encoder else ())):
            configurator = getattr(importlib.import_module(f"ltx_core.model.{module}"), name)
            found |= shapes(configurator.from_config(preset.config), prefixes)
        text = importlib.import_module("ltx_core.text_encoders.gemma.encoders.encoder_configurator")
        found |= shapes(text.EmbeddingsProcessorConfigurator.from_config(preset.config), TEXT)
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_names_and_shapes_are_those_of_the_official_classes(name: str) -> None:
    preset = preset_named(name)
    assert model_inventory(preset) == official_inventory(preset)


def test_with_the_audio_encoder_full_has_the_tensors_of_the_released_file() -> None:
    whole = dataclasses.replace(preset_named("full"), audio_encoder=True)
    assert model_inventory(whole) == official_inventory(whole)
    assert Counter(name.partition(".")[0] for name in model_inventory(whole)) == RELEASED_TENSORS


def test_only_full_lacks_what_no_request_reads() -> None:
    assert [name for name in PRESETS if not preset_named(name).audio_encoder] == ["full"]


def test_full_has_the_parameters_of_the_released_model() -> None:
    preset = preset_named("full")
    model, gemma = model_inventory(preset), gemma_inventory(preset.gemma)

    def billions(inventory: Inventory, *prefixes: str) -> float:
        return sum(torch.Size(shape).numel() for name, shape in inventory.items() if name.startswith(prefixes)) / 1e9

    connectors = tuple(TEXT.values())
    assert billions(model, *connectors) == pytest.approx(3.172, abs=5e-4)
    diffusion = billions(model, "model.diffusion_model.") - billions(model, *connectors[1:])
    assert diffusion == pytest.approx(18.989, abs=5e-4)
    assert billions(model, "vae.encoder.") == pytest.approx(0.319, abs=5e-4)
    assert billions(model, "vae.decoder.") == pytest.approx(0.407, abs=5e-4)
    assert billions(gemma, "") == pytest.approx(12.187, abs=5e-4)


def test_gemma_names_are_what_the_official_loader_renames() -> None:
    operations = importlib.import_module("ltx_core.text_encoders.gemma.encoders.encoder_configurator").GEMMA_LLM_KEY_OPS
    names = gemma_inventory(preset_named("tiny").gemma)
    assert all(operations.apply_to_key(name) is not None for name in names)
