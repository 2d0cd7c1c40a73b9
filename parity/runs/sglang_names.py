"""The names that SGLang's diffusion tests have for cases of LTX-2.3, and the id of the case here that each stands for.

`ltx_2.3_one_stage_ti2v` is a case's id here as well. An alias stands for the official request of that pipeline, with or
without a picture, not for SGLang's prompt; the number of GPUs that a name ends in is SGLang's way of running it.

Source: python/sglang/multimodal_gen/test/server/gpu_cases.py of sgl-project/sglang, and testcase_configs.py before it.
Those that begin with `ltx_2_two_stage` or `ltx_2_5` are of other models.
"""

from collections.abc import Mapping
from typing import Final

SGLANG_NAMES: Final[Mapping[str, str]] = {
    "ltx_2.3_two_stage_t2v_2gpus": "ltx_2.3_two_stage_t2v",
    "ltx_2_3_two_stage_ti2v_2gpus": "ltx_2.3_two_stage_ti2v",
    "ltx_2_3_hq_pipeline": "ltx_2.3_two_stage_hq_t2v",
}
