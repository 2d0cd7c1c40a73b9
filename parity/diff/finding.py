"""A finding: a named reason why two things could not be compared, or hold what no comparison may pass over.

One rule for every comparator in `parity.diff`:

* **Bad data is returned, never raised.** A run with a frame too few, another rate or a NaN is what this tool exists to
  catch, so it becomes a `Finding` in the result, and each metric it spoils is `nan`. The judge fails on any finding and
  on any metric that is absent or `nan`; no comparator crops, broadcasts or substitutes a harmless default.
* **A caller's mistake raises** `ShapeError`: a tensor with the wrong number of axes or a dtype that cannot be meant.
"""

from dataclasses import dataclass
from typing import Final

CODES: Final[dict[str, str]] = {
    "empty": "one side or both hold no elements, so nothing was compared",
    "shape_mismatch": "the shapes differ in a way that no more specific code names",
    "missing_tensor": "the reference has this tensor and the candidate does not",
    "extra_tensor": "the candidate has this tensor and the reference does not",
    "missing_frame": "the candidate has fewer frames",
    "extra_frame": "the candidate has more frames",
    "frame_too_small": "the frames are smaller than the 7 x 7 window of SSIM",
    "missing_channel": "the candidate has fewer channels",
    "extra_channel": "the candidate has more channels",
    "length_mismatch": "the clips have different numbers of samples",
    "rate_mismatch": "the frame rates or sample rates differ",
    "nan_reference": "the reference holds NaN",
    "nan_candidate": "the candidate holds NaN",
    "inf_reference": "the reference holds an infinity",
    "inf_candidate": "the candidate holds an infinity",
    "sigma_mismatch": "the two runs followed different noise schedules",
    "swapped_pass": "a guidance pass of the candidate holds what another pass of the reference holds",
    "environment_mismatch": "the two runs were made in environments that give other bits",
    "missing_trace": "the candidate owes internals that are judged, and did not leave them",
    "unreadable_trace": "the candidate's trace cannot be read, or held against the reference's",
    "contradictory_trace": "what a trace says of a tap cannot all be true of one tensor",
    "reduced_candidate": "the candidate holds small copies and hashes in place of outputs, which nothing vouches for",
    "same_run": "the candidate is the reference's own run, or a copy of it, so nothing was compared",
    "identity_mismatch": "the two runs say that they are of different models",
    "not_isolated": "a part of the candidate could not be compared although it was fed the reference's own inputs",
    "incomplete_trace": "the run ended before its trace was whole",
    "wrong_tag": "an imported file says of its frames or sound what is not so",
    "swapped_channels": "the candidate's two channels are exchanged",
    "lag_undetermined": "the content is too uniform, or too damaged, for a lag in time to be told",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One named failure. `code` is a key of `CODES`, `where` names the tensor or channel, `message` is for people."""

    code: str
    where: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"Finding wants one of {sorted(CODES)}; got {self.code!r}. Add new codes to CODES.")


def count_finding(kind: str, where: str, reference: int, candidate: int) -> Finding:
    """Name a difference in the number of frames or channels (`kind` is "frame" or "channel")."""
    side = "missing" if candidate < reference else "extra"
    return Finding(
        code=f"{side}_{kind}", where=where, message=f"reference has {reference} {kind}s, candidate has {candidate}"
    )


def non_finite_findings(
    where: str, nan_reference: int, nan_candidate: int, inf_reference: int, inf_candidate: int
) -> tuple[Finding, ...]:
    """Name each kind of non-finite value that occurs at all; the arguments are counts of elements."""
    census = {
        "nan_reference": nan_reference,
        "nan_candidate": nan_candidate,
        "inf_reference": inf_reference,
        "inf_candidate": inf_candidate,
    }
    return tuple(
        Finding(code=code, where=where, message=f"{count} elements: {CODES[code]}")
        for code, count in census.items()
        if count
    )
