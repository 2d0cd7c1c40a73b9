"""The official model ledger over any weights: files through the official loader itself, made ones through a stand-in.

A full-size model that is made on the device never becomes a file, so the official builders get another source of
tensors, through the loader argument they have for that. Everything after that is theirs.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from runners.model_files import TensorSource
from runners.official.lockstep import Key
from runners.official.quantization import official_policy
from runners.official.request import OfficialRequest, checkpoint_path, lora_path, named_loras, upsampler_path
from runners.weights import WeightsFolder

NOTHING_BESIDE: Final[Mapping[str, TensorSource]] = {}
BUILDERS: Final = {
    "text_encoder": "text_encoder_builder",
    "gemma_embeddings_processor": "embeddings_processor_builder",
    "video_encoder": "vae_encoder_builder",
    "transformer": "transformer_builder",
    "video_decoder": "vae_decoder_builder",
    "audio_decoder": "audio_decoder_builder",
    "vocoder": "vocoder_builder",
    "spatial_upsampler": "upsampler_builder",
}  # what the official ledger hands out, and its attribute that builds it


def model_ledger(request: OfficialRequest) -> Any:
    """The official `ModelLedger` for the weights and LoRAs of a run."""
    ledger_class = importlib.import_module("ltx_pipelines.utils.model_ledger").ModelLedger
    weights = request.weights
    made = not isinstance(weights, WeightsFolder)
    ledger = ledger_class(
        dtype=request.options.dtype,
        device=request.options.device,
        checkpoint_path=checkpoint_path(weights),
        gemma_root_path=str(weights.gemma_folder),
        spatial_upsampler_path=upsampler_path(weights) or None,
        loras=tuple(named_loras(request.loras)),
        quantization=official_policy(request),
    )
    return with_made_loaders(ledger, request) if made else ledger


def with_made_loaders(ledger: Any, request: OfficialRequest) -> Any:
    """A ledger whose builders get made weights from their source."""
    weights, loras = request.weights, (*request.loras, *request.distilled_lora)
    model = MadeLoader(weights.model, weights.config, {lora_path(lora): lora.source for lora in loras})
    loaders = {"text_encoder": MadeLoader(weights.gemma, weights.gemma_config)}
    if weights.upsampler is not None:
        loaders["spatial_upsampler"] = MadeLoader(weights.upsampler.tensors, weights.upsampler.config)
    for part, name in BUILDERS.items():
        if hasattr(ledger, name):
            builder = dataclasses.replace(getattr(ledger, name), model_loader=loaders.get(part, model))
            setattr(ledger, name, builder)
    return ledger


def key_of(ledger: Any, part: str) -> Key:
    """The tensor names of a part (one of BUILDERS) that the official ledger hands out."""
    operations = getattr(ledger, BUILDERS[part]).model_sd_ops

    def key(checkpoint_name: str) -> str | None:
        if operations is None:  # the upsampler's file has the module's own names
            return checkpoint_name
        renamed = operations.apply_to_key(checkpoint_name)
        if renamed is None:
            return None
        new_key: str = operations.apply_to_key_value(renamed, torch.empty(0))[0].new_key
        return new_key

    return key


class MadeLoader:
    """The official loader protocol over a source of tensors."""

    def __init__(
        self, source: TensorSource, config: dict[str, Any], beside: Mapping[str, TensorSource] = NOTHING_BESIDE
    ) -> None:
        """Load from `source`, whatever the path, but for the paths of `beside`."""
        self._source = source
        self._config = config
        self._beside = beside

    def metadata(self, path: str) -> dict[str, Any]:
        """The checkpoint's configuration; there is no path to read it from."""
        return self._config

    def load(self, path: Any, sd_ops: Any = None, device: torch.device | None = None) -> Any:
        """Tensors under the names that `sd_ops` gives them, as the official loader names them."""
        where = device or torch.device("cpu")
        source = self._beside.get(path if isinstance(path, str) else path[0], self._source)
        wanted = {name: name if sd_ops is None else sd_ops.apply_to_key(name) for name in source.shapes}
        named: dict[str, Tensor] = {}
        for name, key in wanted.items():
            if key is None:
                continue
            tensor = source.read([name], where)[name]
            pairs = ((key, tensor),) if sd_ops is None else sd_ops.apply_to_key_value(key, tensor)
            named.update((pair[0], pair[1]) for pair in pairs)
        state = importlib.import_module("ltx_core.loader.primitives").StateDict
        size = sum(tensor.nbytes for tensor in named.values())
        return state(sd=named, device=where, size=size, dtype={tensor.dtype for tensor in named.values()})
