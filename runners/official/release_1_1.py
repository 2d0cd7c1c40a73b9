"""Adapter for the official release 1.1.2 (Lightricks/LTX-2 at commit 41d9243): pipeline classes made of blocks."""

from runners.official.blocks import observe_pipeline, observed_blocks
from runners.official.compat import gemma_constant
from runners.official.observe import listed_without_v2a, observe_one_by_one
from runners.official.pipelines import call_arguments, checkpoint_keyword, files_of, official_class, sigmas_asked
from runners.official.request import OfficialOutput, OfficialRequest, checkpoint_path, joined


def execute(request: OfficialRequest) -> OfficialOutput:
    """Run a case."""
    case, weights = request.case, request.weights
    paths = {checkpoint_keyword(case): checkpoint_path(weights), "gemma_root": str(weights.gemma_folder)}
    with gemma_constant(weights.gemma_config), observed_blocks(request, listed_without_v2a):
        pipeline = official_class(case)(**paths, **files_of(request))
        observed = observe_pipeline(pipeline, request, observe_one_by_one)
        chunks, audio = pipeline(**call_arguments(case, as_displayed=False), **sigmas_asked(case))
        frames = joined(chunks, request.clock)
    return observed.output(frames, audio)
