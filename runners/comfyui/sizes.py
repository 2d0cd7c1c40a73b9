"""Sizes that ComfyUI 0.25 knows by heart, replaced by another checkpoint's while it loads the text encoder.

It reads the sizes of transformer, VAEs and vocoder from the checkpoint, but those of Gemma 3 12B, and of the projection
behind it, stand in its code, which also knows Gemma's file by the name of a tensor of its last layer. With the released
sizes nothing is replaced. What cannot be fitted is refused.
"""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from runners.errors import RunnerError
from runners.weights import Weights

GEMMA: Final = "Gemma3_12B_Config"
GEMMA_SIZES: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
FIRST_LAYER: Final = "model.layers.0.self_attn.q_norm.weight"
RELEASED_LAYERS: Final = 48


def require_buildable(weights: Weights) -> None:
    """Refuse a checkpoint whose sizes ComfyUI cannot have. Raises: RunnerError naming them."""
    config, text = weights.config["transformer"], weights.gemma_config["text_config"]
    layers = config.get("connector_num_layers", 2)
    for what, one, other in (
        ("unlike numbers of heads of video and audio", "num_attention_heads", "audio_num_attention_heads"),
        ("connectors of unlike depths", "connector_num_layers", "audio_connector_num_layers"),
    ):
        found = config.get(one, layers), config.get(other, config.get(one, layers))
        if found[0] != found[1]:
            raise _cannot_build(f"{what} ({found[0]} and {found[1]})")
    if text["head_dim"] != text.get("query_pre_attn_scalar", text["head_dim"]):
        raise _cannot_build(f"a Gemma that scales its queries by other than its head width ({text['head_dim']})")


@contextmanager
def text_encoder_fitted(weights: Weights) -> Iterator[None]:
    """While inside, ComfyUI makes and fills a text encoder of this checkpoint's sizes."""
    text = weights.gemma_config["text_config"]
    if text["num_hidden_layers"] == RELEASED_LAYERS:
        yield
        return
    llama = importlib.import_module("comfy.text_encoders.llama")
    lt = importlib.import_module("comfy.text_encoders.lt")
    with ExitStack() as stack:
        stack.enter_context(patch.object(llama, GEMMA, _gemma_of(getattr(llama, GEMMA), weights)))
        stack.enter_context(patch.object(lt, "DualLinearProjection", _projection_of(lt.DualLinearProjection, weights)))
        stack.enter_context(patch.object(lt.LTXAVTEModel, "load_sd", _by_its_first_layer(lt.LTXAVTEModel.load_sd)))
        yield


def _gemma_of(original: Any, weights: Weights) -> Any:
    text, vision = weights.gemma_config["text_config"], weights.gemma_config["vision_config"]
    pattern = text["sliding_window_pattern"]

    def made(**options: Any) -> Any:
        config = original(**options)
        for name in GEMMA_SIZES:
            setattr(config, name, text[name])
        config.sliding_attention = [text["sliding_window"]] * (pattern - 1) + [False]
        config.vision_config = {**config.vision_config, **vision}
        return config

    return made


def _projection_of(original: Any, weights: Weights) -> Any:
    shapes = weights.model.shapes
    video, audio = (
        shapes[f"text_embedding_projection.{stream}_aggregate_embed.weight"] for stream in ("video", "audio")
    )

    def made(_width: int, _video: int, _audio: int, **options: Any) -> Any:
        return original(video[1], video[0], audio[0], **options)

    return made


def _by_its_first_layer(original: Any) -> Any:
    def load(model: Any, tensors: dict[str, Any]) -> Any:
        return model.gemma3_12b.load_sd(tensors) if FIRST_LAYER in tensors else original(model, tensors)

    return load


def _cannot_build(what: str) -> RunnerError:
    return RunnerError(f"Runner 'comfyui' cannot build {what}; run this checkpoint with official or native.")
