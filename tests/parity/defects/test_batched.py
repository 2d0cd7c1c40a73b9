"""Guidance passes in one batch: the taps and, but for rounding, the numbers of the passes one by one."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from parity.defects.batched import ALL_PASSES, PROMPT_PASSES, BatchedDenoisingStage, each_pass
from runners.case import Case
from runners.clock import Quiet
from runners.ltx23 import pipeline
from runners.ltx23.stages.denoising import DenoisingStage
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.tap import listening
from runners.weights import WeightsFolder

FP32 = RunOptions(device=torch.device("cpu"), dtype=torch.float32)


def first_step(weights: WeightsFolder, case: Case, stage: Any) -> dict[str, Tensor]:
    """Taps of the first step with this denoising stage in the pipeline."""
    heard: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        if name.startswith("denoise/000/"):
            heard[name] = tensor.clone()

    with patch.object(pipeline, "DenoisingStage", stage), listening(each_pass(keep)):
        NativeRunner(weights, FP32).run(case, Quiet())
    return heard


@pytest.mark.parametrize("together", [PROMPT_PASSES, ALL_PASSES], ids=["prompts", "all"])
@pytest.mark.parametrize("off", [False, True], ids=["v2a-on", "v2a-off"])
def test_a_batch_of_passes_leaves_out_what_the_single_passes_do(
    off: bool, together: tuple[str, ...], micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"switches.skip_v2a_cross_attn_for_video_gt": off})
    single = first_step(micro_weights, case, DenoisingStage)
    batched = first_step(micro_weights, case, partial(BatchedDenoisingStage, together=together))
    assert batched.keys() == single.keys()
    assert any(name.endswith("audio/av_attn") for name in batched) is not off
    for name, tensor in single.items():
        torch.testing.assert_close(batched[name], tensor, rtol=1e-3, atol=1e-3 * tensor.abs().max().item())
