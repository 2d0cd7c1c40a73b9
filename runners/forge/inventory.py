"""Names, shapes and dtypes of a made checkpoint, read off the native modules on the meta device.

The native modules are the one place that knows the layout of what they compute; a test holds them, and the layout of
the one part that none computes, against the official classes. They and
transformers are imported only where an inventory is taken: making tensors from one needs neither.
"""

from typing import Any

import torch

from runners.forge.audio_encoder import audio_encoder_inventory
from runners.forge.presets import Json, Preset
from runners.laid_out import laid_out

Inventory = dict[str, tuple[int, ...]]  # checkpoint name to shape, in the order of the model

DTYPE = torch.bfloat16  # of every tensor in the released files


def model_inventory(preset: Preset) -> Inventory:
    """The single file's tensors. Raises: ConfigError for a configuration that the model does not support."""
    from runners.ltx23.loading import expected_shapes
    from runners.ltx23.parts import model_parts
    from runners.releases import ReleaseBehaviours

    text = preset.gemma["text_config"]
    parts = model_parts(
        preset.config,
        hidden_width=text["hidden_size"],
        num_hidden_states=text["num_hidden_layers"] + 1,
        reference=ReleaseBehaviours(),
    )
    inventory: Inventory = {}
    with laid_out():
        for make in parts.values():
            module: Any = make()
            inventory |= expected_shapes(module, module.CHECKPOINT_PREFIXES)
    return inventory | (audio_encoder_inventory(preset.config) if preset.audio_encoder else {})


def lora_inventory(model: Inventory, rank: int) -> Inventory:
    """A LoRA's tensors: a pair of factors for every linear layer of a checkpoint's transformer.

    Args:
        model: the checkpoint's tensors.
        rank: of every pair, whatever the layer's size, as in the released file.
    """
    from runners.ltx23.loading import TRANSFORMER
    from runners.ltx23.lora import CONNECTOR, FACTORS, LEFT_OUT, WEIGHT

    inventory: Inventory = {}
    for name, shape in model.items():
        if name.startswith(TRANSFORMER) and CONNECTOR not in name and name.endswith(WEIGHT) and len(shape) == 2:
            layer = LEFT_OUT + name.removeprefix(TRANSFORMER).removesuffix(WEIGHT)
            inventory[layer + FACTORS[0]] = (rank, shape[1])
            inventory[layer + FACTORS[1]] = (shape[0], rank)
    return inventory


def upsampler_inventory(config: Json) -> Inventory:
    """The tensors of the spatial upsampler's file."""
    from runners.ltx23.loading import expected_shapes
    from runners.ltx23.upsampler import Upsampler
    from runners.ltx23.upsampler_config import UpsamplerConfig

    with laid_out():
        module = Upsampler(UpsamplerConfig.from_dict(config))
    return expected_shapes(module, module.CHECKPOINT_PREFIXES)


def gemma_inventory(gemma: Json) -> Inventory:
    """The Gemma folder's tensors, under the names of Gemma's own files: vision tower included, no separate head."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    with laid_out():
        model = Gemma3ForConditionalGeneration(Gemma3Config.from_dict(gemma))
    inventory: Inventory = {}
    for key, value in model.state_dict().items():
        if key == "lm_head.weight":  # tied to the embedding, hence not in the files
            continue
        name = key.removeprefix("model.").replace("language_model.", "language_model.model.", 1)
        inventory[name] = tuple(value.shape)
    return inventory
