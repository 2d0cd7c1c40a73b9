"""The stand-ins that the official code needs on a machine without CUDA; nothing else in this project patches it.

1. `import torchaudio` fails beside a CPU-only torch, because its compiled extension wants CUDA's libraries. The
   official code uses only transforms written in Python, so an empty module takes the extension's place.
2. The official helpers call `torch.cuda.synchronize` and `empty_cache` unconditionally.
3. The size of Gemma is a constant there. A checkpoint with another Gemma needs that constant to say so.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from runners.model_files import TensorSource
from runners.official.ledger import MadeLoader
from runners.official.request import MADE_PATH, MADE_UPSAMPLER_PATH
from runners.stand_ins import without_compiled_torchaudio
from runners.weights import Weights, WeightsFolder

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)


def prepare_imports() -> None:
    """Make what the official code imports importable; call before importing any of it."""
    if "OpenImageIO" not in sys.modules and importlib.util.find_spec("OpenImageIO") is None:
        sys.modules["OpenImageIO"] = types.ModuleType("OpenImageIO")
    if not torch.cuda.is_available():
        without_compiled_torchaudio()


@contextmanager
def without_cuda_calls() -> Iterator[None]:
    """Without CUDA, make the calls that demand it do nothing while inside."""
    if torch.cuda.is_available():
        yield
        return
    originals = {name: getattr(torch.cuda, name) for name in ("synchronize", "empty_cache")}
    try:
        for name in originals:
            setattr(torch.cuda, name, lambda *_: None)
        yield
    finally:
        for name, function in originals.items():
            setattr(torch.cuda, name, function)


class GemmaConstant:
    """Takes the place of the official constant, with the values of a Gemma folder's config.json."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self.text_config = SimpleNamespace(**config["text_config"])

    def to_dict(self) -> dict[str, Any]:
        """The configuration that the official configurator makes its Gemma of."""
        return self._config


@contextmanager
def gemma_constant(config: dict[str, Any]) -> Iterator[None]:
    """While inside, the official constant describes the Gemma of `config`; left alone when it already does."""
    module: Any = importlib.import_module("ltx_core.text_encoders.gemma.encoders.encoder_configurator")
    official = module.GEMMA3_CONFIG_FOR_LTX
    gemma = importlib.import_module("transformers").Gemma3Config.from_dict(config)
    if all(getattr(gemma.text_config, name) == getattr(official.text_config, name) for name in SIZES):
        yield
        return
    try:
        module.GEMMA3_CONFIG_FOR_LTX = GemmaConstant(gemma.to_dict())
        yield
    finally:
        module.GEMMA3_CONFIG_FOR_LTX = official


@contextmanager
def without_cpu_autocast_to_fp32() -> Iterator[None]:
    """While inside, an autocast to fp32 on a CPU does nothing, as it does anyhow, but silently."""
    original = torch.autocast

    def autocast(device_type: str, dtype: torch.dtype | None = None, **others: Any) -> Any:
        if device_type == "cpu" and dtype == torch.float32:
            return nullcontext()
        return original(device_type, dtype, **others)

    with patch.object(torch, "autocast", autocast):
        yield


@contextmanager
def any_number_of_heads() -> Iterator[None]:
    """While inside, the official code takes a transformer whose modalities differ in their number of heads."""
    module = importlib.import_module("ltx_core.model.transformer.model_configurator")
    official = module.check_config_value

    def check(config: dict[str, Any], key: str, expected: Any) -> None:
        if key != "num_attention_heads":
            official(config, key, expected)

    with patch.object(module, "check_config_value", check):
        yield


@contextmanager
def made_weights_loader(weights: Weights, loras: Mapping[str, TensorSource]) -> Iterator[None]:
    """While inside, the loader of releases since 1.1.2 gets made weights from their source, not from a file.

    Args:
        weights: of the run.
        loras: by the path that the loader is given.
    """
    if isinstance(weights, WeightsFolder):
        yield
        return
    module = importlib.import_module("ltx_core.loader.sft_loader")
    # Since 1.2.0 the metadata hold the configuration under a name, and the version beside it.
    nested = importlib.util.find_spec("ltx_pipelines.utils.model_paths") is not None
    version = weights.model_version
    metadata = {MADE_PATH: {"config": weights.config, "model_version": version} if nested else weights.config}
    gemma = MadeLoader(weights.gemma, weights.gemma_config)

    beside = dict(loras)
    if weights.upsampler is not None:
        config = weights.upsampler.config
        metadata[MADE_UPSAMPLER_PATH] = {"config": config, "model_version": version} if nested else config
        beside[MADE_UPSAMPLER_PATH] = weights.upsampler.tensors
    model = MadeLoader(weights.model, weights.config, beside)

    def load(_self: Any, path: Any, sd_ops: Any = None, device: torch.device | None = None) -> Any:
        first = path if isinstance(path, str) else path[0]
        return (model if first == MADE_PATH or first in beside else gemma).load(path, sd_ops, device)

    def read_metadata(_self: Any, path: Any) -> dict[str, Any]:
        return metadata.get(path, {})

    loader = module.SafetensorsModelStateDictLoader
    with patch.object(loader, "load", load), patch.object(loader, "metadata", read_metadata):
        yield
