"""The conditions under which two runs may be compared: of one release, one request and one set of pictures.

Other weights can be compared, and are what differs (`parity.diff.identity`); weights that nobody named cannot.
"""

from typing import Final

from parity.diff.finding import Finding
from parity.runs.difference import Difference
from parity.runs.environment import differences
from parity.runs.folder import Run
from runners.errors import RunError

# Official code that needs other versions of these than this project has. On a CPU they yield the same bits, which
# tests/runners/native/test_exact_tier_releases.py holds at every tap, so there they make no other environment.
OWN_PACKAGES: Final = {"1.2.0": ("transformers", "tokenizers")}
SIGMA_ROUNDING: Final = 1e-6  # levels are at most 1, where an operation in float32 rounds by 6e-8
MOST_OF_A_VALUE: Final = 40  # characters of a prompt, say, in a message


def environment_differences(reference: Run, candidate: Run) -> list[Difference]:
    """The differences between the environments of two runs that can change bits."""
    old, new = reference.manifest, candidate.manifest
    on_cpu = old.environment.get("device") == new.environment.get("device") == "cpu"
    beside = old.runner == "official" and new.runner != "official" and on_cpu
    own = OWN_PACKAGES.get(old.reference, ()) if beside else ()
    return differences(old.environment, new.environment, without=own)


def require_comparable(reference: Run, candidate: Run) -> None:
    """Refuse two runs that are not of the same request and release, or of which one does not say its weights.

    Raises: RunError naming the first thing that differs; the release comes first, since it explains the rest.
    """
    old, new = reference.manifest, candidate.manifest
    both = f"{reference.folder} and {candidate.folder}"
    if old.reference != new.reference:
        raise RunError(
            f"Reference mismatch: {reference.folder} follows release {old.reference}, {candidate.folder} follows "
            f"{new.reference}. Run the candidate with --reference {old.reference}, or take a {new.reference} reference."
        )
    if old.case != new.case:
        raise RunError(
            f"{both} are runs of different cases: they differ in {_keys(old.case, new.case)}. "
            "Run both with the same case file."
        )
    if old.inputs != new.inputs:
        raise RunError(f"{both} were run with different pictures under the same name; run both from one case folder.")
    for run in (reference, candidate):
        if not run.manifest.weights_hash and run.imported is None:  # a verdict of an imported run says so
            raise RunError(f"{run.folder} does not say which weights it was run with; run it again.")


def require_same_weights(reference: Run, candidate: Run) -> None:
    """Refuse two runs of different weights, where nothing else can come of them. Raises: RunError."""
    for one in weights_findings(reference, candidate):
        raise RunError(f"{one.message}; pass the same --weights to both.")


def manifest_findings(reference: Run, candidate: Run) -> tuple[Finding, ...]:
    """Differences that no tap shows: other weights, other noise levels, or other rates of frames and samples."""
    old, new = reference.manifest, candidate.manifest
    found = [*weights_findings(reference, candidate), *sigma_findings(reference, candidate)]
    for where, unit in (("frame_rate", "frames"), ("sample_rate_hz", "samples")):
        rates = (getattr(old, where), getattr(new, where))
        if rates[0] != rates[1]:
            message = f"reference has {rates[0]:g}, candidate has {rates[1]:g} {unit} a second"
            found.append(Finding(code="rate_mismatch", where=where, message=message))
    return tuple(found)


def weights_findings(reference: Run, candidate: Run) -> tuple[Finding, ...]:
    """A finding if two runs name different weights; an imported run need not name any."""
    old, new = reference.manifest.weights_hash, candidate.manifest.weights_hash
    if not (old and new) or old == new:
        return ()
    message = f"{reference.folder} was run with weights {old}, {candidate.folder} with {new}"
    return (Finding(code="identity_mismatch", where="weights", message=message),)


def sigma_findings(reference: Run, candidate: Run) -> tuple[Finding, ...]:
    """True if both runs followed one noise schedule, but for how float32 rounds it; taps show what that does."""
    old, new = reference.manifest.sigmas, candidate.manifest.sigmas
    if candidate.imported is not None and not new:  # outputs tell no noise levels
        return ()
    if len(old) == len(new) and all(abs(a - b) <= SIGMA_ROUNDING for a, b in zip(old, new, strict=True)):
        return ()
    if len(old) != len(new):
        message = f"reference has {len(old)} noise levels, candidate has {len(new)}"
    else:
        step = max(range(len(old)), key=lambda index: abs(old[index] - new[index]))
        message = f"farthest apart at level {step}: reference has {old[step]:.9g}, candidate has {new[step]:.9g}"
    return (Finding(code="sigma_mismatch", where="sigmas", message=message),)


def _keys(old: object, new: object) -> str:
    """Each key in which two cases differ, with both values: "request.seed (10 and 11)"."""
    return "; ".join(f"{one.key} ({one.old} and {one.new})" for one in _case_differences(old, new))


def _case_differences(old: object, new: object, key: str = "") -> list[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new}, key=str)
        heads = {name: f"{key}.{name}" if key else str(name) for name in names}
        return [one for name in names for one in _case_differences(old.get(name), new.get(name), heads[name])]
    return [] if old == new else [Difference(key=key, old=_short(old), new=_short(new))]


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= MOST_OF_A_VALUE else f"{words[:MOST_OF_A_VALUE]}..."
