"""The scales of the made values: one table from tensor name to distribution, first match wins.

The aim is a model that behaves like a trained one where a comparison looks: unit-sized streams, every residual branch
and gate worth several percent of its stream at any depth, guidance passes that differ by a few percent, latents near
unit deviation, frames and sound inside their range. Weights scale with their fan-in, so the same table serves every
preset. Depth needs no rule: a branch adds a fixed amount to a stream normalized before every branch, so a stream of n
branches grows like sqrt(n), slowly enough for 48 blocks. `parity forge --check` prints the figures.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from runners.errors import CheckpointError
from runners.forge.counter import fill_normal_, stream_key
from runners.forge.filters import binomial_filter, fourier_basis, inverse_fourier_basis, mel_basis, resampling_filter

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Near-Gaussian values."""

    mean: float = 0.0
    std: float
    group: int = 1  # consecutive output channels that resemble each other
    likeness: float = 0.0  # correlation of values within a group


Recipe = Callable[[Shape], Spread | Tensor]


def spread_recipe(mean: float, std: float) -> Recipe:
    """Values of this mean and deviation, whatever the shape."""
    return lambda shape: Spread(mean=mean, std=std)


def gain_recipe(gain: float) -> Recipe:
    """A weight (out, in, ...) that turns unit inputs into outputs of deviation `gain`."""
    return lambda shape: Spread(std=gain / math.sqrt(math.prod(shape[1:])))


def _smooth(gain: float, group: int, likeness: float) -> Recipe:
    """A gain whose output channels come in groups alike: depth to space turns such a group into a patch of pixels."""
    return lambda shape: Spread(std=gain / math.sqrt(math.prod(shape[1:])), group=group, likeness=likeness)


def _gain_in_first(gain: float, taps: int = 1) -> Recipe:
    """The same for a weight (in, out, ...), of which each output sums `taps` positions."""
    return lambda shape: Spread(std=gain / math.sqrt(shape[0] * taps))


# Name pattern (of the whole name), recipe. Activations named below are of unit deviation unless said otherwise.
RULES: tuple[tuple[str, Recipe], ...] = (
    # Gemma, whose norms multiply by 1 + weight; a branch is normed before it is added, so that norm sets its share.
    (r"language_model\.model\.embed_tokens\.weight", gain_recipe(1.0)),  # the model multiplies by sqrt(width)
    (r"language_model\..*\.post_(attention|feedforward)_layernorm\.weight", spread_recipe(-0.6, 0.05)),
    (r"language_model\..*\.self_attn\.[qk]_norm\.weight", spread_recipe(0.2, 0.1)),
    (r"language_model\..*norm\.weight", spread_recipe(0.0, 0.1)),
    (r"language_model\..*_proj\.weight", gain_recipe(1.0)),
    (r"vision_tower\..*norm\d?\.weight", spread_recipe(1.0, 0.1)),
    (r"vision_tower\..*\.position_embedding\.weight", spread_recipe(0.0, 0.2)),
    (r"vision_tower\..*weight", gain_recipe(0.7)),
    (r"multi_modal_projector\.mm_soft_emb_norm\.weight", spread_recipe(0.0, 0.1)),
    (r"multi_modal_projector\.mm_input_projection_weight", _gain_in_first(1.0)),
    # Text features and connectors.
    (r"text_embedding_projection\..*\.weight", gain_recipe(1.0)),
    (r".*\.learnable_registers", spread_recipe(0.0, 0.6)),
    # LoRAs: at full strength three tenths of the weight they are fused into.
    (r".*\.lora_A\.weight", gain_recipe(1.0)),
    (r".*\.lora_B\.weight", gain_recipe(0.3)),
    # Attention. Unit queries and keys give logits of the deviation q_norm x k_norm: 1.7, peaked but not one-hot.
    (r".*\.[qk]_norm\.weight", spread_recipe(1.3, 0.1)),
    (r".*\.to_[qkv]\.weight", gain_recipe(1.0)),
    (r".*\.to_gate_logits\.weight", gain_recipe(0.5)),  # a gate is 2 sigmoid(logit)
    (r".*\.to_out\.0\.weight", gain_recipe(1.5)),  # attention averages its values down to about a half
    (r".*\.ff\.net\.0\.proj\.weight|.*\.audio_ff\.net\.0\.proj\.weight", gain_recipe(1.0)),
    (r".*\.ff\.net\.2\.weight|.*\.audio_ff\.net\.2\.weight", gain_recipe(1.0)),
    # Modulation: tables give shifts, scales and gates a size of their own, timesteps move them.
    (r".*scale_shift_table.*", spread_recipe(0.0, 0.3)),
    (r".*adaln_single\.emb\.timestep_embedder\.linear_1\.weight", gain_recipe(1.0)),
    (r".*adaln_single\.emb\.timestep_embedder\.linear_2\.weight", gain_recipe(0.6)),
    (r".*adaln_single\.linear\.weight", gain_recipe(0.8)),
    # Transformer ends. The velocity is kept below unit size, so that integrating it leaves latents near unit size.
    (r"model\.diffusion_model\.(audio_)?patchify_proj\.weight", gain_recipe(1.0)),
    (r"model\.diffusion_model\.(audio_)?proj_out\.weight", gain_recipe(0.5)),
    # Latent statistics of both autoencoders.
    (r".*\.per_channel_statistics\.std-of-means", spread_recipe(1.0, 0.1)),
    (r".*\.per_channel_statistics\.mean-of-means", spread_recipe(0.0, 0.2)),
    # Autoencoders: a residual block norms, activates (SiLU leaves a deviation of 0.6) and convolves, twice.
    (r"vae\.encoder\.conv_out\.conv\.weight", gain_recipe(1.7)),
    # A trained decoder draws surfaces, not grain: neighbours in time and space are made alike.
    (r"vae\.decoder\.conv_out\.conv\.weight", _smooth(0.6, group=16, likeness=0.9)),
    (r"vae\.decoder\.up_blocks\.\d+\.conv\.conv\.weight", _smooth(1.0, group=8, likeness=0.9)),
    (r"audio_vae\.decoder\.conv_out\.conv\.weight", gain_recipe(2.5)),
    (r"audio_vae\.decoder\.conv_out\.conv\.bias", spread_recipe(-3.0, 0.5)),  # log-mel: about the level of speech
    (r"(vae|audio_vae)\..*\.conv2\.conv\.weight", gain_recipe(0.8)),
    (r"(vae|audio_vae)\..*conv.*\.weight", gain_recipe(1.0)),
    # Vocoder and bandwidth extension, which have no norms: mel frames enter at a deviation of 3 or more.
    (r"vocoder\..*\.filter", resampling_filter),
    (r"vocoder\.mel_stft\.stft_fn\.forward_basis", fourier_basis),
    (r"vocoder\.mel_stft\.stft_fn\.inverse_basis", inverse_fourier_basis),
    (r"vocoder\.mel_stft\.mel_basis", mel_basis),
    (r"vocoder\..*\.act\.(alpha|beta)", spread_recipe(0.3, 0.3)),  # logarithms
    (r"vocoder\..*\.conv_pre\.weight", gain_recipe(0.35)),
    (r"vocoder\..*\.ups\.\d+\.weight", _gain_in_first(1.0, taps=2)),  # kernels are about two strides long
    (r"vocoder\..*\.convs1\.\d+\.weight", gain_recipe(0.5)),
    (r"vocoder\..*\.convs2\.\d+\.weight", gain_recipe(0.4)),
    (r"vocoder\.vocoder\.conv_post\.weight", gain_recipe(0.1)),
    (r"vocoder\.bwe_generator\.conv_post\.weight", gain_recipe(0.03)),
    # Spatial upsampler: SiLU leaves a deviation of 0.6, and a block adds a normed branch to what came in.
    (r"upsampler\.blur_down\.kernel", binomial_filter),
    (r"(.*\.)?(initial_)?norm\d?\.weight", spread_recipe(1.0, 0.1)),
    (r"(.*\.)?(initial_)?conv\d?\.weight|upsampler\.0\.weight", gain_recipe(1.0)),
    (r"final_conv\.weight", gain_recipe(1.7)),
    (r".*\.bias", spread_recipe(0.0, 0.05)),
    # Of checkpoints quantised beforehand: the largest e4m3 number, 448, stands for eight deviations of an input.
    (r".*\.input_scale", spread_recipe(8.0 / 448.0, 1.0 / 448.0)),
)
COMPILED_RULES = tuple((re.compile(pattern), recipe) for pattern, recipe in RULES)


def recipe_of(name: str, shape: Shape) -> Spread | Tensor:
    """Distribution, or the values themselves, of one tensor. Raises: CheckpointError for a name without a rule."""
    for pattern, recipe in COMPILED_RULES:
        if pattern.fullmatch(name):
            return recipe(shape)
    raise CheckpointError(f"No rule says how large {name!r} should be; add one to runners/forge/scales.py.")


def made_tensor(name: str, shape: Shape, dtype: torch.dtype, seed: int, device: torch.device) -> Tensor:
    """One tensor of a made checkpoint, computed on `device`; the same bits on every device."""
    recipe = recipe_of(name, shape)
    if isinstance(recipe, Tensor):
        return recipe.to(dtype).to(device)
    out = torch.empty(shape, dtype=dtype, device=device)
    if recipe.group == 1:
        return fill_normal_(out, stream_key(seed, name), mean=recipe.mean, std=recipe.std)
    own_std, shared_std = (recipe.std * math.sqrt(part) for part in (1 - recipe.likeness, recipe.likeness))
    own = torch.empty(shape, dtype=torch.float32, device=device)
    fill_normal_(own, stream_key(seed, name), mean=recipe.mean, std=own_std)
    shared = torch.empty((-(-shape[0] // recipe.group), *shape[1:]), dtype=torch.float32, device=device)
    fill_normal_(shared, stream_key(seed, f"{name}#shared"), mean=0.0, std=shared_std)
    return out.copy_(own.add_(shared.repeat_interleave(recipe.group, dim=0)[: shape[0]]))
