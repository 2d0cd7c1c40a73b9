"""The official first noise as ComfyUI takes it: the same draws as native's, in ComfyUI's layouts."""

import sys
from types import SimpleNamespace

import pytest
import torch

from runners.comfyui.noise import OfficialNoise
from runners.ltx23.latents import empty_state, video_tokens, with_noise

CPU = torch.device("cpu")


def test_it_has_the_bits_of_natives_own_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comfy.nested_tensor", SimpleNamespace(NestedTensor=tuple))
    monkeypatch.setitem(sys.modules, "comfy", SimpleNamespace())
    parts = torch.zeros(1, 128, 3, 2, 5), torch.zeros(1, 8, 7, 16)
    latent = {"samples": SimpleNamespace(unbind=lambda: parts)}
    video, audio = OfficialNoise(10, torch.bfloat16, CPU).generate_noise(latent)
    assert (video.shape, audio.shape) == (parts[0].shape, parts[1].shape)
    assert video.dtype == audio.dtype == torch.float32

    generator = torch.Generator(CPU).manual_seed(10)
    states = [
        with_noise(empty_state(tokens, 128, torch.zeros(1), torch.bfloat16), generator, lerp_fp32=False)
        for tokens in (3 * 2 * 5, 7)
    ]
    assert torch.equal(video_tokens(video), states[0].latent.float())
    assert torch.equal(audio.permute(0, 2, 1, 3).flatten(2), states[1].latent.float())
