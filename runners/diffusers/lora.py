"""The distilled LoRA of a second stage, loaded into diffusers as its documentation does: peft puts it beside weights.

Nothing is corrected. The official loader adds strength * B A to a weight and rounds the sum; peft leaves the weight as
it is and adds strength * B (A x) to what the layer gives, in the weight's dtype. What a file says of rank and alpha in
its metadata is not handed on: the official loader does not read it, and without it peft's factor is the strength.
"""

import importlib
from typing import Any, Final

import torch

from runners.case import Case
from runners.diffusers.names import renaming_of
from runners.errors import CheckpointError, RunnerError
from runners.loras import stage_loras
from runners.ltx23.lora import WEIGHT, factor_keys
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.model_files import LoraSource, ModelFiles
from runners.renaming import LISTED
from runners.weights import Weights

PEFT_VERSION: Final = "0.21.2"
ADAPTER: Final = "distilled"


def second_lora(case: Case, weights: Weights) -> LoraSource | None:
    """The LoRA of a case's second stage, whose factors fit the checkpoint; None where the pipeline has none.

    Raises: RunnerError if there is one and peft is not installed, or another version is; CheckpointError for a file
        that is missing or damaged, matches no weight, or has factors of another shape.
    """
    *_, last = stage_loras(case, weights)
    if not last:
        return None
    (lora,) = last  # the runner takes no case with LoRAs of its own
    try:
        version: str = importlib.import_module("peft").__version__
    except ImportError as error:
        raise RunnerError(
            f"Pipeline {case.pipeline!r} has a LoRA, which diffusers leaves to peft, and that cannot be imported "
            f"({error}); run `make setup`, or `pip install '.[diffusers]'`."
        ) from error
    if version != PEFT_VERSION:
        raise RunnerError(f"peft {version} is installed; this runner knows {PEFT_VERSION}. Install that one.")
    factor_keys(lora, weights.model.shapes)
    return lora


def load_lora(pipeline: Any, lora: LoraSource, files: ModelFiles) -> None:
    """Load a LoRA into a pipeline whose transformer is filled, and let it act with its strength.

    Args:
        pipeline: of diffusers.
        lora: what `second_lora` found.
        files: of the checkpoint that the pipeline was built from.
    Raises: CheckpointError unless diffusers found a place for every pair of factors that the official loader fuses,
        where it would only warn, or say nothing.
    """
    matched = factor_keys(lora, files.model.shapes)
    factors = lora.source.read(list(lora.source.shapes), torch.device("cpu"))
    try:
        pipeline.load_lora_weights(factors, adapter_name=ADAPTER)
    except (ValueError, LookupError, TypeError) as error:  # whatever its parsing of keys comes to
        raise CheckpointError(
            f"diffusers cannot load {lora.name} ({type(error).__name__}: {error}). It wants 'lora' in every key, and "
            "both factors of a layer; take a file that is so, or run this case with official or native."
        ) from error
    keys = renaming_of(VideoVaeConfig.from_checkpoint(files.config)).keys(list(matched))["transformer"]
    held = {
        f"{name}{WEIGHT}"
        for name, module in pipeline.transformer.named_modules()
        if ADAPTER in getattr(module, "lora_A", ())
        and not (module.lora_A[ADAPTER].weight.is_meta or module.lora_B[ADAPTER].weight.is_meta)
    }
    left = sorted(matched[checkpoint_name][0] for key, checkpoint_name in keys.items() if key not in held)
    if left:
        more = f" and {len(left) - LISTED} more" if len(left) > LISTED else ""
        raise CheckpointError(
            f"diffusers has found no place for {len(left)} of the {len(matched)} pairs of factors in {lora.name}: "
            f"{', '.join(left[:LISTED])}{more}. It knows keys that begin with 'diffusion_model.'; take a file that has "
            "such, or run this case with official or native."
        )
    pipeline.set_adapters(ADAPTER, lora.strength)
