"""Harmless rewrites leave the weights where they are: a graph of a step reads them there when it is replayed."""

from collections.abc import Callable

import pytest
import torch

from parity.calibrate.rewrites import ELEMENTWISE, PRODUCTS, Rewrite, rewritten
from runners.case import Case
from runners.clock import Quiet
from runners.ltx23.stages.denoising import DenoisingStage
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder


@pytest.mark.parametrize("rewrite", [PRODUCTS, ELEMENTWISE], ids=lambda one: one.id)
def test_weights_stay_where_they_are(
    rewrite: Rewrite,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places: list[dict[str, int]] = []
    predict = DenoisingStage.predict

    def noting(stage: DenoisingStage, *call: object, **named: object) -> object:
        found = predict(stage, *call, **named)  # type: ignore[arg-type]
        places.append({name: weight.data_ptr() for name, weight in stage.transformer.named_parameters()})
        return found

    monkeypatch.setattr(DenoisingStage, "predict", noting)
    with rewritten(rewrite), NativeRunner(micro_weights, RunOptions(device=torch.device("cpu"))) as runner:
        runner.run(micro_case(), Quiet())
    assert len(places) > 1 and all(one == places[0] for one in places)
