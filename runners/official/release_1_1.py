"""Adapter for the official release 1.1.2 (Lightricks/LTX-2 at commit 41d9243): a pipeline class made of blocks."""

import importlib

from runners.official.blocks import observe_pipeline, observed_blocks
from runners.official.compat import checkpoint_path, gemma_constant
from runners.official.observe import listed_without_v2a, observe_one_by_one
from runners.official.request import PIPELINE, OfficialOutput, OfficialRequest, joined, official_loras, pipeline_arguments


def execute(request: OfficialRequest) -> OfficialOutput:
    """Run a case."""
    module = importlib.import_module(PIPELINE)
    weights = request.weights
    with gemma_constant(weights.gemma_config), observed_blocks(request, listed_without_v2a):
        pipeline = module.TI2VidOneStagePipeline(
            checkpoint_path=checkpoint_path(weights),
            gemma_root=str(weights.gemma_folder),
            loras=official_loras(request),
            device=request.options.device,
        )
        stage = observe_pipeline(pipeline, request, observe_one_by_one)
        chunks, audio = pipeline(**pipeline_arguments(request.case, as_displayed=False))
        frames = joined(chunks, request.clock)
    return stage.output(frames, audio)
