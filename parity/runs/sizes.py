"""The largest size that each file of a run may have, which follows from its case and from the depth of the model.

What is larger is refused before it is read or hashed: it is no run of that case. The bounds leave room for what a gate
is to look at and judge, such as frames of twice the width, and for what an engine of one's own adds.

Axes: F frame, H height, W width, C channel, N sample, T token.
"""

from typing import Final

from parity.trace.checksums import CHECKSUMS_FILE
from parity.trace.file import BYTES_PER_TAP, TRACE_FILE
from parity.trace.full_tensors import TENSORS_FILE
from runners.case import Case
from runners.request import AUDIO_LATENTS_PER_S, SPATIAL_FACTOR, TEMPORAL_FACTOR

ROOM: Final = 4  # times what the case asks for
SLACK_BYTES: Final = 64 << 20
MAX_RATE_HZ: Final = 192_000  # of the sound
MOST_BLOCKS: Final = 100  # tap names have two digits
_PASSES: Final = 4  # of guidance
_TAPS_PER_BLOCK: Final = 10  # in each pass: five of each stream
_TAPS_PER_STEP: Final = 4  # besides those of passes
_TAPS_OUTSIDE: Final = 16  # of the denoising, without pictures
_FOREIGN_TAPS: Final = 1024  # that an engine may have of its own
_WIDTH: Final = 4096  # channels of the widest tap of the released model, text apart
_TEXT_TOKENS: Final = 1024  # of a prompt
_TEXT_WIDTH: Final = 49 * 3840  # of all Gemma states of one token
_LATENT_CHANNELS: Final = 128
_NUMBER_BYTES: Final = 8  # of the widest dtype of a latent
_WHOLE_TAP_BYTES: Final = 4  # of an element of a tap that is kept whole


def most_taps(case: Case, num_blocks: int | None) -> int:
    """The largest number of taps that a trace of the case may have."""
    blocks = MOST_BLOCKS if num_blocks is None else num_blocks
    per_step = _PASSES * (blocks * _TAPS_PER_BLOCK + 2) + _TAPS_PER_STEP
    flow = case.total_steps * per_step + len(case.plans) * (len(case.request.images) + _TAPS_OUTSIDE)
    return 2 * flow + _FOREIGN_TAPS


def most_bytes(name: str, case: Case, num_blocks: int | None) -> int:
    """The largest size that a file of a run may have.

    Args:
        name: of a file of `parity.runs.folder.DATA_FILES`.
        case: that was run.
        num_blocks: of the transformer; None if the run does not say.
    """
    if name in (TRACE_FILE, CHECKSUMS_FILE):
        return most_taps(case, num_blocks) * BYTES_PER_TAP
    outputs = SLACK_BYTES + ROOM * (_frame_bytes(case) + _sound_bytes(case) + _latent_bytes(case))
    if name != TENSORS_FILE:
        return outputs  # the clip and the reduced outputs are smaller than the whole ones
    taps = _tokens(case) * _WIDTH * most_taps(case, num_blocks)
    text = 2 * _TEXT_TOKENS * (_TEXT_WIDTH + 4 * _WIDTH)
    return outputs + _WHOLE_TAP_BYTES * (taps + text)


def _frame_bytes(case: Case) -> int:
    request = case.request
    return request.num_frames * request.height * request.width * 3  # uint8 (F, H, W, 3)


def _sound_bytes(case: Case) -> int:
    return int(case.request.num_frames / case.request.frame_rate * MAX_RATE_HZ) * 2 * 4  # fp32 (2, N)


def _latent_bytes(case: Case) -> int:
    return _tokens(case) * _LATENT_CHANNELS * _NUMBER_BYTES


def _tokens(case: Case) -> int:
    """Cells of both latents, at least one of each."""
    request = case.request
    video = (
        (request.num_frames // TEMPORAL_FACTOR + 1)
        * (request.height // SPATIAL_FACTOR)
        * (request.width // SPATIAL_FACTOR)
    )
    return video + int(request.num_frames / request.frame_rate * AUDIO_LATENTS_PER_S) + 1
