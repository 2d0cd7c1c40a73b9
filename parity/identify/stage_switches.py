"""The switches that each stage of the native model reads, those of the stages that feed it included.

At two settings that agree in these, a stage computes the same, so it is computed once for both.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from parity.defects.defect import present
from parity.identify.behaviours import (
    ALL_PASSES_BATCHED,
    CONNECTORS_BATCHED,
    CONNECTORS_SHARE_MASK,
    PROMPT_PASSES_BATCHED,
    Setting,
)
from parity.identify.port_defects import PORT_DEFECTS, defects_at


def _shows_first_at(name: str, tap: str) -> bool:
    defect = PORT_DEFECTS[name].defect
    return defect is not None and tap in defect.first_taps


# Sites at which a defect is put into each stage.
_STAGES: Final[dict[str, tuple[str, ...]]] = {
    "text": ("text",),
    "connector": ("connector",),
    "image": ("image",),
    "init": ("init",),
    "denoising": ("first_block", "passes", "guided", "skipping", "denoising"),
    "frames": ("frames",),
    "sound": ("sound",),
}
_ACTING: Final = {stage: defects_at(*sites) for stage, sites in _STAGES.items()}
TEXT: Final = _ACTING["text"] | {"prompts_encoded_together", "more_negative_phrases"}
CONNECTOR: Final = TEXT | _ACTING["connector"] | {CONNECTORS_BATCHED, CONNECTORS_SHARE_MASK}
IMAGE: Final = _ACTING["image"] | {"pictures_as_displayed"}
INIT: Final = IMAGE | _ACTING["init"] | {"noise_lerp_fp32", "positions_fp32", "keyframe_spans_one_frame"}
TRANSFORMER: Final = frozenset(name for name, one in PORT_DEFECTS.items() if one.at_loading) & _ACTING["denoising"] | {
    "cross_timestep_per_token",
    "lora_accumulated",
}
DENOISING: Final = (
    CONNECTOR
    | INIT
    | TRANSFORMER
    | _ACTING["denoising"]
    | {
        "guided_passes_repeated",
        "guidance_fp32",
        "negative_disables_skipped_modality",
        PROMPT_PASSES_BATCHED,
        ALL_PASSES_BATCHED,
    }
)
SECOND: Final = DENOISING | {"sound_of_first_stage", "unguided_level_per_sample"}
FRAMES: Final = _ACTING["frames"] | {"decoder_chunked", "decode_auto_tiled"}
SOUND: Final = _ACTING["sound"] | {"vocoder_fp32"}
MEL: Final = frozenset(name for name in _ACTING["sound"] if _shows_first_at(name, "decode/mel"))


@contextmanager
def stage_defects(stage: str, setting: Setting) -> Iterator[None]:
    """Run with the defects of a setting that act in a stage of the native model, all together."""
    with ExitStack() as stack:
        for name in sorted(setting & _ACTING[stage]):
            defect = PORT_DEFECTS[name].defect
            assert defect is not None
            stack.enter_context(present(defect, must_reach=False))
        yield
