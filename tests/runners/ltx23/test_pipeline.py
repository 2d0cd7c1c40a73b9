"""The pipeline: what is checked before anything runs, and that components do not stand in memory together."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runners.case import Case
from runners.clock import Clock
from runners.errors import CheckpointError, ConfigError
from runners.ltx23 import pipeline
from runners.ltx23.gemma import load_gemma
from runners.ltx23.pipeline import LTX23Pipeline, ModelComponents
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.transformer import Transformer
from runners.ltx23.video_decoder import VideoDecoder
from runners.model_files import ModelFiles
from runners.native.request import sampling_params
from runners.weights import WeightsFolder

CPU = torch.device("cpu")


class Changed:
    """A tensor source with other shapes on its label."""

    def __init__(self, source: Any, changes: dict[str, tuple[int, ...] | None]) -> None:
        self.read: Callable[..., dict[str, Tensor]] = source.read
        shapes = source.shapes | changes
        self.shapes: dict[str, tuple[int, ...]] = {name: shape for name, shape in shapes.items() if shape is not None}


def files_of(weights: WeightsFolder, **changes: Any) -> ModelFiles:
    values: dict[str, Any] = {
        "config": weights.config,
        "model": weights.model,
        "gemma_config": weights.gemma_config,
        "gemma": weights.gemma,
        "gemma_folder": weights.gemma_folder,
    }
    return ModelFiles(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"vae.decoder.conv_in.conv.bias": None},
            r"the checkpoint do not fit .*: 1 missing: vae.decoder.conv_in.conv.bias",
        ),
        ({"model.diffusion_model.extra.weight": (3,)}, r"1 unknown: model.diffusion_model.extra.weight"),
        (
            {"vocoder.mel_stft.mel_basis": (64, 9)},
            r"1 of another shape: vocoder.mel_stft.mel_basis is \(64, 9\) instead of \(64, 257\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_before_anything_is_loaded(
    changes: dict[str, tuple[int, ...] | None], sentence: str, micro_weights: WeightsFolder
) -> None:
    files = files_of(micro_weights, model=Changed(micro_weights.model, changes))
    with pytest.raises(CheckpointError, match=sentence):
        LTX23Pipeline(files, PipelineConfig(), CPU)


def test_a_configuration_of_another_size_names_what_is_missing(micro_weights: WeightsFolder) -> None:
    config = copy.deepcopy(micro_weights.config)
    config["transformer"]["num_layers"] = 3
    with pytest.raises(CheckpointError, match=r"missing: model.diffusion_model.transformer_blocks.2.*and \d+ more"):
        LTX23Pipeline(files_of(micro_weights, config=config), PipelineConfig(), CPU)
    del config["vocoder"]
    with pytest.raises(ConfigError, match="no section 'vocoder'"):
        LTX23Pipeline(files_of(micro_weights, config=config), PipelineConfig(), CPU)


def test_a_part_is_built_as_the_kind_that_was_asked_for(micro_weights: WeightsFolder) -> None:
    components = ModelComponents(micro_weights, PipelineConfig(dtype=torch.float32), CPU)
    decoder = components.build("video_decoder", VideoDecoder)
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.float32}
    with pytest.raises((TypeError, AssertionError)):
        components.build("video_decoder", Transformer)


def test_a_component_is_gone_when_the_next_is_loaded_without_waiting_for_a_collection(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[nn.Module]] = []
    together: dict[str, int] = {}
    build = ModelComponents.build

    def watched(self: ModelComponents, name: str, kind: type[nn.Module], *more: Any) -> nn.Module:
        together[name] = sum(reference() is not None for reference in alive)
        module = build(self, name, kind, *more)
        alive.extend(weakref.ref(part) for part in module.modules())
        return module

    def watched_gemma(*arguments: Any) -> nn.Module:
        encoder = load_gemma(*arguments)
        alive.extend(weakref.ref(part) for part in encoder.modules())
        return encoder

    monkeypatch.setattr(ModelComponents, "build", watched)
    monkeypatch.setattr(pipeline, "load_gemma", watched_gemma)
    case = micro_case({"request.images": [{"path": "coffee.jpg"}], "request.num_inference_steps": 1})
    gc.disable()
    try:
        batch = LTX23Pipeline(micro_weights, PipelineConfig(), CPU)(sampling_params(case), Clock(CPU))
    finally:
        gc.enable()
    assert together == dict.fromkeys(
        ("connectors", "video_encoder", "transformer", "video_decoder", "audio_decoder"), 0
    )
    assert batch.video_frames is not None and batch.audio_waveform is not None
    assert batch.video_frames.is_inference() and not torch.is_inference_mode_enabled()
