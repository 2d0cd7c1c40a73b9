"""A case as values of ComfyUI's nodes, and a sentence for what they cannot be given."""

from typing import Any, Final

from runners.case import Case
from runners.errors import RunnerError
from runners.protocol import RunOptions, engine_choices

OPTIONS: Final = {
    "attention": ("pytorch", "sub-quadratic", "split"),  # its switches --use-*-cross-attention
    "noise": ("own", "official"),  # official: the reference's first noise, given to the sampler as a custom node may
}  # of the engine, the first of each unless asked otherwise


def engine_options(options: RunOptions) -> dict[str, str]:
    """Every option of the engine with its value. Raises: RunnerError for a value that it does not have."""
    return engine_choices("ComfyUI", OPTIONS, options.engine)


def require_askable(case: Case) -> None:
    """Refuse what the nodes have no input for. Raises: RunnerError naming it; CaseError for a missing picture."""
    request, guidance = case.request, case.guidance
    if request.frame_rate != int(request.frame_rate):
        wanted = "whole numbers: LTXVEmptyLatentAudio counts in integers"
        raise _refused("request.frame_rate", str(request.frame_rate), wanted)
    perturbed = guidance.video.needs_perturbed or guidance.audio.needs_perturbed
    for index, image in enumerate(request.images):
        case.image_path(image)
        if image.frame_idx and image.strength != 1.0 and perturbed:
            wanted = "1.0 behind the first frame in a case with stg_scale: MultimodalGuider fails on a weaker guide"
            raise _refused(f"request.images[{index}].strength", str(image.strength), wanted)
    both = guidance.video.needs_perturbed and guidance.audio.needs_perturbed
    if both and set(guidance.video.stg_blocks) != set(guidance.audio.stg_blocks):
        video, audio = (list(guider.stg_blocks) for guider in (guidance.video, guidance.audio))
        raise _refused("guidance.audio.stg_blocks", str(audio), f"video's {video}: MultimodalGuider has one list")


def guider_values(case: Case) -> tuple[dict[str, dict[str, Any]], list[int]]:
    """The inputs of Lightricks' guider: keywords of `GuiderParameters` of each modality, and the blocks it perturbs.

    V2A off is the audio guider's own `cross_attn`.
    """
    guiders = {"VIDEO": case.guidance.video, "AUDIO": case.guidance.audio}
    v2a = not case.switches.skip_v2a_cross_attn_for_video_gt
    values = {
        modality: {
            "cfg_scale": guider.cfg_scale,
            "stg_scale": guider.stg_scale,
            "perturb_attn": guider.needs_perturbed,
            "rescale_scale": guider.rescale_scale,
            "modality_scale": guider.modality_scale,
            "skip_step": guider.skip_step,
            "cross_attn": v2a or modality == "VIDEO",
        }
        for modality, guider in guiders.items()
    }
    blocks = {block for guider in guiders.values() if guider.needs_perturbed for block in guider.stg_blocks}
    return values, sorted(blocks)


def _refused(option: str, value: str, wanted: str) -> RunnerError:
    return RunnerError(
        f"Runner 'comfyui' cannot be given {option} = {value}; its nodes take {wanted}. "
        "Run this case with official or native, or override the option."
    )
