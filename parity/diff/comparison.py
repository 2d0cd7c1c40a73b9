"""The ground of a verdict: the numbers and findings of one comparison, what they are of, and how much was compared.

A finding is a named reason why two things could not be compared, or hold what no comparison may pass over. One rule for
every comparator in `parity.diff`:

* **Bad data is returned, never raised.** A run with a frame too few, another rate or a NaN is what this tool exists to
  catch, so it becomes a `Finding` in the result, and each metric it spoils is `nan`. The judge fails on any finding and
  on any metric that is absent or `nan`; no comparator crops, broadcasts or substitutes a harmless default.
* **A caller's mistake raises** `ShapeError`: a tensor with the wrong number of axes or a dtype that cannot be meant.

Levels of evidence are the outputs of a run, the drift of its taps, and what each part adds by itself. Outputs there
always are. Drift needs a trace of both runs; isolation needs the candidate's parts fed the reference's own inputs
(`parity isolate`). A level that was not measured says why. If the candidate could have offered it, the level is owed
and its absence fails; a candidate that has no internals to offer is judged by less, and the verdict says so.

No tensor is here, and no run is opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from parity.diff.metric import DRIFT, ISOLATED
from parity.runs.difference import Difference

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
    "quantization_mismatch": "the transformer's weights were kept in different ways, which makes two models of them",
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


OUTPUTS: Final = "outputs"
LEVELS: Final = (OUTPUTS, "drift", "isolated")
LEVEL_WORDS: Final = {OUTPUTS: "outputs", "drift": "drift of taps", "isolated": "isolated errors"}


@dataclass(frozen=True, kw_only=True)
class EvidenceLevel:
    """The coverage of a level: measured or not, the reason, whether the candidate owes it, how much of it there is."""

    measured: bool
    why: str = ""
    owed: bool = False
    without: tuple[str, ...] = ()  # metrics of a measured level that the candidate has no internals for
    left_out: tuple[str, ...] = ()  # metrics of a measured level all of whose taps were left out of the comparison
    compared: int = 0  # taps that were compared; 0 also where nobody counted them yet
    drifting: int = 0  # those of them that drift was measured of: a golden may keep the bits of others alone
    of: int = 0  # taps that the case has
    lacking: int = 0  # taps that the reference has, the candidate has not, and nothing excuses

    @property
    def unmeasured(self) -> frozenset[str]:
        """Metrics of the level that there is no number of, and that nobody owes."""
        return frozenset((*self.without, *self.left_out))


MEASURED: Final = EvidenceLevel(measured=True)
NOT_ISOLATED: Final = EvidenceLevel(measured=False, why="no isolated errors were given (`parity isolate --out`)")
NO_TRACE: Final = EvidenceLevel(measured=False, why="these are outputs without a trace")
OUTPUTS_ONLY: Final[Mapping[str, EvidenceLevel]] = {OUTPUTS: MEASURED, "drift": NO_TRACE, "isolated": NOT_ISOLATED}


def level_of(metric: str) -> str:
    """The level that a metric belongs to."""
    return "drift" if metric.startswith(DRIFT) else "isolated" if metric.startswith(ISOLATED) else OUTPUTS


@dataclass(frozen=True, kw_only=True)
class Side:
    """The side of a verdict: one of the two runs. Empty fields are what numbers saved long ago do not hold."""

    runner: str
    tier: str
    dtype: str
    reference: str  # release that it follows
    run_sha256: str  # of its run.json
    described: tuple[str, ...] = ()  # phrases of its runner: the engine's version, how it ran, what is odd about it
    run_id: str = ""  # random, of that run alone
    code: str = ""  # hash of the code that ran it
    created_utc: str = ""
    device: str = ""  # cpu or cuda
    processor: str = ""  # name of the device


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Both sides, as far as they are known: outputs in memory are of no run."""

    reference: Side | None = None
    candidate: Side | None = None
    environment: tuple[Difference, ...] = ()  # what differs between the two and can change bits


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison as it is judged."""

    case: str  # id of the case, the key of its limits
    metrics: Mapping[str, float | None]  # by name; None and nan are what could not be computed
    findings: tuple[Finding, ...] = ()  # what the comparison found besides numbers; each one fails
    levels: Mapping[str, EvidenceLevel] = field(
        default_factory=lambda: dict(OUTPUTS_ONLY)
    )  # which evidence was measured
    environment_of_candidate: Mapping[str, Any] = field(default_factory=dict)  # where limits must hold
    compared_on: str = ""  # what the numbers are of, if not of everything; limits hold for what they were measured on
    form: str = ""  # of imported outputs, a label of `parity.runs.encoding`; "" for those of a run that was executed
    padded_text: bool = False  # whether metrics of text are of padded prompts, as in numbers saved long ago

    @property
    def sides(self) -> Sides:
        """Both sides, as far as they are known."""
        return Sides()
