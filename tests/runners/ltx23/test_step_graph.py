"""Steps are computed as they come where nothing is captured, and the reason is said."""

import torch
from torch import Tensor

from runners.ltx23.step_graph import StepGraphs
from runners.tap import listening

LATENTS = torch.full((1, 3, 5), 2.0), torch.full((1, 7, 4), 3.0), torch.tensor(0.5)


def test_beside_a_cpu_every_step_is_computed() -> None:
    asked: list[tuple[Tensor, ...]] = []

    def compute(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(inputs)
        return inputs[0] * inputs[2], inputs[1] * inputs[2]

    graphs = StepGraphs(torch.device("cpu"))
    for _ in range(4):
        video, audio = graphs.run("form", compute, LATENTS)
        assert video.tolist() == torch.full((1, 3, 5), 1.0).tolist() and float(audio.sum()) == 7 * 4 * 1.5
    assert len(asked) == 4 and graphs.note == "steps run on cpu"


def test_where_taps_cannot_be_captured_every_step_is_computed() -> None:
    graphs = StepGraphs(torch.device("cuda"))  # no device is touched before a capture
    with listening(lambda _name, _tensor: None):
        for _ in range(4):
            graphs.run("form", lambda video, audio, _sigma: (video, audio), LATENTS)
    assert graphs.note == "who hears the taps cannot be captured"
