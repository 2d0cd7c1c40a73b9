"""Operations of the official code around its transformer's blocks, computed in float64 from tensors it computed with.

A block itself is raised to float64 where it stands; what is here is called by functions of its own. The
functions of 1.0.0 that fix float32 inside take float64 instead, and their results are rounded nowhere.

Source: ltx_core.{utils,components.guiders,model.transformer.model} and ltx_pipelines.utils.helpers 1.0.0.

Axes: B sample, T token, C channel.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runners.ltx23.latents import LatentState
from runners.official.raised import raised
from runners.request import Guider

Pair = tuple[Any, Any]  # what the official transformer is given of both modalities
_PREFIX = {"video": "", "audio": "audio_"}  # of the official head's parts


def conditions(velocity_model: Any, modalities: Pair, stream: str) -> Any:
    """The stream as projected in and its modulation, as the official arguments of a block.

    Sinusoids of the noise level stay in float32, which the official code fixes; rotary tables are to be left alone: the
    official ones are made of positions rounded to the model's dtype, and mean that.
    """
    video, audio = (
        dataclasses.replace(modality, **{name: _double(value) for name, value in vars(modality).items()})
        for modality in modalities
    )
    own, other = (video, audio) if stream == "video" else (audio, video)
    preprocessor = getattr(velocity_model, f"{stream}_args_preprocessor")
    holders = (preprocessor, preprocessor.simple_preprocessor)
    parts = (part for holder in holders for part in vars(holder).values() if isinstance(part, nn.Module))
    with raised(torch.float64, *parts):
        return preprocessor.prepare(own, other)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def x0(velocity_model: Any, stream: str, last: Tensor, embedding: Tensor, state: LatentState, sigma: float) -> Tensor:
    """The prediction of one stream, (B, T, C), by the official output head.

    Args:
        velocity_model: official model whose head it is.
        stream: "video" or "audio".
        last: (B, T, C) stream after the last block.
        embedding: (B, T or 1, C) of the noise level.
        state: what the step began with.
        sigma: noise level of the step.
    """
    table, norm, projection = (
        getattr(velocity_model, f"{_PREFIX[stream]}{part}") for part in ("scale_shift_table", "norm_out", "proj_out")
    )
    with raised(torch.float64, norm, projection):
        velocity = velocity_model._process_output(table.double(), norm, projection, last.double(), embedding.double())
    noise_levels = state.denoise_mask.double() * sigma
    denoised: Tensor = importlib.import_module("ltx_core.utils").to_denoised(
        state.latent.double(), velocity, noise_levels, calc_dtype=torch.float64
    )
    return denoised


def guided(guider: Guider, predictions: Mapping[str, Tensor]) -> Tensor:
    """The guided prediction of one modality, (B, T, C), by the official guider, from those of the step's passes."""
    official = importlib.import_module("ltx_core.components.guiders")
    params = official.MultiModalGuiderParams(
        cfg_scale=guider.cfg_scale,
        stg_scale=guider.stg_scale,
        rescale_scale=guider.rescale_scale,
        modality_scale=guider.modality_scale,
    )
    cond, *others = (
        predictions[name].double() if name in predictions else 0.0
        for name in ("cond", "uncond", "perturbed", "isolated")
    )
    combined: Tensor = official.MultiModalGuider(params=params).calculate(cond, *others)
    return combined


def latent(state: LatentState, prediction: Tensor, sigma: float, change: float) -> Tensor:
    """The latent after an Euler step to a guided prediction, (B, T, C): sample plus velocity times change of sigma."""
    sample = state.latent.double()
    pull = importlib.import_module("ltx_pipelines.utils.helpers").post_process_latent
    pulled = pull(prediction.double(), state.denoise_mask.double(), state.clean.double())
    velocity: Tensor = importlib.import_module("ltx_core.utils").to_velocity(
        sample, sigma, pulled, calc_dtype=torch.float64
    )
    return sample + velocity * change
