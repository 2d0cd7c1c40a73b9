"""A case's quantization in official terms."""

import importlib
from typing import Any
from unittest.mock import patch

from runners.errors import CheckpointError
from runners.official.request import OfficialRequest
from runners.weights import WeightsFolder


def official_policy(request: OfficialRequest) -> Any:
    """The official `QuantizationPolicy` that keeps the transformer's weights as the case says, if it says anything."""
    quantization = request.case.quantization
    if quantization is None:
        return None
    policies = importlib.import_module("ltx_core.quantization").QuantizationPolicy
    if hasattr(policies, quantization):
        return getattr(policies, quantization)()
    # Since 1.2.0 a policy is made for a checkpoint, whose scales it reads from its file; made weights have none.
    module = importlib.import_module(f"ltx_core.quantization.{quantization}")
    weights = request.weights
    if isinstance(weights, WeightsFolder):
        return module.build_policy(str(weights.checkpoint_path))
    if quantization != "fp8_cast":
        raise CheckpointError(
            f"{quantization} wants files that were quantised before, which `parity forge --quantization {quantization} "
            "--out DIR` writes; weights made on the spot are not."
        )
    with patch.object(module, "_read_scales", lambda _: {}):
        return module.build_policy("")
