"""Shared by the tests of stages: batches of the micro case, and the same weights in official and native components."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from runners.case import Case
from runners.clock import Clock
from runners.ltx23.pipeline import ModelComponents
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.stages.batch import Batch
from runners.native.request import sampling_params
from runners.official.compat import gemma_constant, without_cuda_calls
from runners.weights import WeightsFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def make_batch(micro_case: Callable[..., Case]) -> Callable[..., Batch]:
    """A batch of the micro case with dotted keys of the case overridden and nothing computed yet."""

    def make(overrides: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32, **config: Any) -> Batch:
        sampling = sampling_params(micro_case(overrides))
        return Batch(
            sampling=sampling,
            config=PipelineConfig(dtype=dtype, **config),
            device=CPU,
            clock=Clock(CPU),
            do_classifier_free_guidance=sampling.do_classifier_free_guidance,
            extra=sampling.build_request_extra(),
        )

    return make


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """Run tests as the pipeline runs its stages."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=str)
def models(request: pytest.FixtureRequest, micro_weights: WeightsFolder) -> Iterator[SimpleNamespace]:
    """The micro weights in both implementations: `official` ledger, `native` components, and their dtype."""
    from ltx_pipelines.utils.model_ledger import ModelLedger

    with without_cuda_calls(), gemma_constant(micro_weights.gemma_config):
        ledger = ModelLedger(
            dtype=request.param,
            device=CPU,
            checkpoint_path=str(micro_weights.checkpoint_path),
            gemma_root_path=str(micro_weights.gemma_folder),
        )
        native = ModelComponents(micro_weights, PipelineConfig(dtype=request.param), CPU)
        yield SimpleNamespace(official=ledger, native=native, dtype=request.param)
