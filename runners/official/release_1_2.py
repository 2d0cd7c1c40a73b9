"""Adapter for the official release 1.2.0 (Lightricks/LTX-2 at commit 400fd31): blocks, float frames, automatic tiling.

It needs transformers 5.8 to 5.14, so it usually runs in another interpreter (`--runner-python`).

Axes: B sample, S prompt token, D width, F frame, H height, W width, C channel.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from runners.official.blocks import observe_pipeline, observed_blocks
from runners.official.compat import any_number_of_heads
from runners.official.observe import TextObserver
from runners.official.pipelines import call_arguments, files_of, official_class, sigmas_asked
from runners.official.request import OfficialOutput, OfficialRequest, checkpoint_path, joined


def execute(request: OfficialRequest) -> OfficialOutput:
    """Run a case."""
    case, weights = request.case, request.weights
    with any_number_of_heads(), observed_blocks(request, _masked_without_v2a):
        paths = importlib.import_module("ltx_pipelines.utils.model_paths").ModelPaths.from_monolith(
            checkpoint_path(weights), str(weights.gemma_folder)
        )
        pipeline = official_class(case)(model_paths=paths, **files_of(request))
        observed = observe_pipeline(pipeline, request, _observe_together)
        arguments = {**call_arguments(case, as_displayed=True), **sigmas_asked(case)}
        chunks, audio, *_ = pipeline(**arguments, vae_dtype=request.options.dtype)
        frames = bytes_of(joined(chunks, request.clock))
    return observed.output(frames, audio)


def bytes_of(frames: Tensor) -> Tensor:
    """Frames of [0, 1] as bytes, scaled in their own dtype and truncated as the earlier releases did."""
    return (frames * 255.0).to(torch.uint8)


def _observe_together(encoder: Any, text: TextObserver) -> None:
    """Tap a text encoder that takes all prompts in one call."""
    official: Callable[..., Any] = encoder.encode

    def encode(prompts: list[str]) -> Any:
        encoded = official(prompts)
        for hidden_states, mask in encoded:
            text.hidden(hidden_states, mask)
        return encoded

    encoder.encode = encode


def _masked_without_v2a(perturbations: Any, model: Any, latent: Tensor) -> Any:
    """Perturbations with V2A skipped everywhere, where a batch of them is a mask: 0 skips, 1 keeps."""
    official = importlib.import_module("ltx_core.guidance.perturbations")
    if perturbations is None:  # a pass without guidance, whose mask the model makes itself
        perturbations = official.BatchedPerturbationConfig.empty(
            latent.shape[0], model.num_blocks, latent.device, latent.dtype
        )
    row = official.PerturbationType.SKIP_V2A_CROSS_ATTN
    masks = [perturbations.block_masks.clone(), perturbations.block_masks_cpu.clone()]
    for mask in masks:
        mask[row] = 0
    return official.BatchedPerturbationConfig.from_masks(*masks)
