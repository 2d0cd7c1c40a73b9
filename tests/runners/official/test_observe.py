"""The observer of the official loop, beside calls that no known release makes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from runners.errors import RunnerError
from runners.official.observe import ObservedTransformer
from runners.tap import listening

VIDEO, AUDIO = torch.ones(1, 2, 3), torch.ones(1, 4, 5)


def test_calls_of_a_step_are_its_passes_in_order_and_one_more_is_refused() -> None:
    asked: list[Any] = []

    def model(video: Any, audio: Any, perturbations: Any) -> Any:
        asked.append(perturbations)
        return VIDEO, AUDIO

    model.velocity_model = SimpleNamespace(transformer_blocks=[])  # type: ignore[attr-defined]
    heard: list[str] = []
    video = SimpleNamespace(latent=VIDEO)
    with listening(lambda name, _: heard.append(name)):
        observed = ObservedTransformer(
            model, lambda asked, of, latent: f"{asked} and no V2A of {of is model}, {len(latent)}"
        )
        for calls in (2, 1, 2):
            observed.begin_step(("cond", "uncond"))
            for number in range(calls):
                observed(video, None, number)
        with pytest.raises(RunnerError, match="more passes in a step than cond, uncond; this is a release"):
            observed(video, None, 2)
    names = ("cond", "uncond", "cond", "cond", "uncond")
    assert heard == [f"{name}/x0/{stream}" for name in names for stream in ("video", "audio")]
    assert asked == [f"{number} and no V2A of True, 1" for number in (0, 1, 0, 0, 1)]
