"""The order of a calibration that time is short for: what limits need first, then whatever there is time for.

At full size a member takes 20 to 120 seconds, and a command on a GPU box may be short. So limits are written as soon as
`FIRST` is measured: enough harmless variations for a floor of the free run, enough rewrites for a floor of every
part alone, and a defect of every facet that the outputs should show. Each further sitting adds what comes after, until
all members are measured; limits then say how many they rest on.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from parity.calibrate.another_gpu import ANOTHER_GPU
from parity.calibrate.checkpoint import CalibrationCheckpoint, Member
from runners.errors import OutOfTimeError

FIRST: Final = (
    *("noise_ulp_0", "text_ulp_0", "without_cudnn_and_flash", ANOTHER_GPU),
    *("text_without_first_token", "sound_half_as_loud", "sound_one_mel_frame_late", "picture_not_held"),
    *("steps", "elementwise", "products"),
)
NEXT: Final = ("compiled_branches", "rescale_dropped", "v2a_off", "one_linear_scaled", "attention", "without_cudnn")
LAST: Final = ("math_attention", "oracle")  # at 121 frames either takes longer than a sitting, or twice the memory


def in_order(names: Iterable[str]) -> list[str]:
    """Members in the order in which they are worth measuring."""
    known = list(names)
    ahead = [name for name in (*FIRST, *NEXT) if name in known]
    return [*ahead, *(name for name in known if name not in (*ahead, *LAST)), *(name for name in LAST if name in known)]


def take_members(
    work: Mapping[str, Callable[[], Member]],
    checkpoint: CalibrationCheckpoint,
    say: Callable[[str], None],
    *,
    sparing: bool,
) -> dict[str, Member]:
    """Measure members, or take them from the checkpoint, in the order of `work`.

    Sparingly, the most useful come first, and what is out of time is left for the next sitting once there is enough.
    Raises: OutOfTimeError if the time is over before that.
    """
    wanted = [name for name in (in_order(work) if sparing else work) if checkpoint.wants(name)]
    enough = {name for name in wanted if name in FIRST} if sparing and not checkpoint.only else set(wanted)
    members: dict[str, Member] = {}
    for name in wanted:
        try:
            members[name] = checkpoint.take(name, work[name])
        except OutOfTimeError as error:
            if not enough <= members.keys():
                raise
            say(f"{error} Limits follow from the {len(members)} of {len(wanted)} members measured so far.")
            break
    return {name: members[name] for name in work if name in members}
