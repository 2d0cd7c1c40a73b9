import math
import re

import pytest
import torch

from runners.errors import CheckpointError
from runners.forge.filters import fourier_basis, mel_basis, resampling_filter
from runners.forge.inventory import gemma_inventory, lora_inventory, model_inventory, upsampler_inventory
from runners.forge.presets import preset_named
from runners.forge.scales import RULES, Spread, made_tensor, recipe_of
from runners.forge.tensors import ScaledTensors

CPU = torch.device("cpu")
TO_OUT = "model.diffusion_model.transformer_blocks.3.attn1.to_out.0.weight"


@pytest.mark.parametrize("name", ["tiny", "full"])
def test_every_tensor_has_a_rule_and_every_rule_a_tensor(name: str) -> None:
    preset = preset_named(name)
    used = set()
    model, rational = model_inventory(preset), {**preset.upsampler, "rational_resampler": True}
    upsamplers = upsampler_inventory(preset.upsampler) | upsampler_inventory(rational)
    scaled = ScaledTensors(model, 0).shapes
    inputs = {
        name: shape for name, shape in scaled.items() if name.endswith(".input_scale")
    }  # weights' follow from them
    language, lora = gemma_inventory(preset.gemma), lora_inventory(model, preset.lora_rank)
    for inventory in (model, language, lora, upsamplers, inputs):
        for tensor, shape in inventory.items():
            pattern = next(pattern for pattern, _ in RULES if re.fullmatch(pattern, tensor))
            used.add(pattern)
            if not re.search("filter|basis|kernel", tensor):
                recipe = recipe_of(tensor, shape)
                assert isinstance(recipe, Spread) and recipe.std > 0
    assert [pattern for pattern, _ in RULES if pattern not in used] == []


def test_a_name_without_a_rule_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"audio_vae\.surprise"):
        recipe_of("audio_vae.surprise", (3,))


def test_a_weight_is_scaled_by_its_fan_in() -> None:
    recipe = recipe_of(TO_OUT, (7, 100))
    assert recipe == Spread(std=1.5 / 10)
    made = made_tensor(TO_OUT, (200, 100), torch.float32, 0, CPU)
    assert made.std().item() == pytest.approx(0.15, rel=0.02)


def test_smooth_weights_are_alike_within_a_group_and_not_between() -> None:
    name, shape = "vae.decoder.up_blocks.1.conv.conv.weight", (16, 40, 3, 3, 3)
    made = made_tensor(name, shape, torch.float32, 0, CPU).flatten(1)
    correlation = torch.corrcoef(made)
    assert correlation[0, 1:8].min().item() > 0.8
    assert correlation[0, 8:].abs().max().item() < 0.2
    assert made.std().item() == pytest.approx(1 / math.sqrt(40 * 27), rel=0.05)


def test_names_and_seeds_give_unrelated_values_and_equal_ones_the_same() -> None:
    first, other, seeded, again = (
        made_tensor(name, (50, 60), torch.bfloat16, seed, CPU)
        for name, seed in ((TO_OUT, 0), (TO_OUT.replace("attn1", "attn2"), 0), (TO_OUT, 1), (TO_OUT, 0))
    )
    assert torch.equal(first, again)
    for changed in (other, seeded):
        assert torch.corrcoef(torch.stack([first.float().flatten(), changed.float().flatten()]))[0, 1].abs() < 0.1


def test_filters_do_what_they_are_for() -> None:
    assert resampling_filter((1, 1, 12)).sum().item() == pytest.approx(1, abs=1e-6)
    samples = 64
    tone = torch.cos(2 * math.pi * 5 * torch.arange(samples, dtype=torch.float64) / samples)
    spectrum = fourier_basis((2 * (samples // 2 + 1), 1, samples))[:, 0] @ tone
    real, imaginary = spectrum.chunk(2)
    magnitude = (real**2 + imaginary**2).sqrt()
    assert magnitude.argmax().item() == 5
    assert magnitude[5].item() == pytest.approx(samples / 4)  # half the window's mean of a half, times N
    mel = mel_basis((64, 257))
    assert mel.shape == (64, 257) and bool((mel >= 0).all())
    assert mel.argmax(dim=1).diff().min().item() >= 0  # bands climb
    band_area = mel[60].sum().item() * 8000 / 256
    assert band_area == pytest.approx(1, rel=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [TO_OUT, "vae.decoder.conv_out.conv.weight", "vocoder.mel_stft.mel_basis"])
def test_cuda_makes_the_same_bits(name: str) -> None:
    shape = (64, 257)
    cuda = made_tensor(name, shape, torch.bfloat16, 4, torch.device("cuda"))
    assert torch.equal(cuda.cpu(), made_tensor(name, shape, torch.bfloat16, 4, CPU))
