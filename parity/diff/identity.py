"""The two sides of a comparison: what each run is, and whether they are two runs at all.

Every run carries a random id, and times that no other run has to the last bit. A run beside itself, its copy, its hard
links or its copy under another label would pass any gate, so it is a finding, and so is a label that contradicts the
other run's where the two are of one model: dtype, version and number of blocks.

Goldens and runs made before there were ids have none, and a copy may be given another. They are told by their times:
end to end, of each stage and of each step, as the clock gave them, in billionths of a second. Two runs share none of
them, so one that is equal in one place is enough. Rounded times tell nothing, nor do short ones, which meet by chance;
GPU events are coarser than the clock, so of their times two must be equal.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch

from parity.diff.finding import Finding
from parity.diff.side import Side
from parity.runs.folder import DATA_FILES, Run, RunManifest
from runners.catalogue import NAMES
from runners.protocol import CANDIDATE

SHORTEST_TOLD_S: Final = 0.01  # a time that scatters by 1 %, so over 100,000 billionths of a second


def side_of(run: Run) -> Side:
    """The side that a run is."""
    record = run.manifest
    where = record.environment
    return Side(
        runner=record.runner,
        tier=record.tier,
        dtype=record.dtype,
        reference=record.reference,
        run_sha256=run.sha256,
        described=tuple(map(str, record.details.get(CANDIDATE, ()))),
        run_id=record.run_id,
        code=_text(where, "source_hash"),
        created_utc=record.created_utc,
        device=_text(where, "device"),
        processor=_text(where, "device_name") or _text(where, "cpu"),
    )


def _text(environment: Mapping[str, Any], key: str) -> str:
    value = environment.get(key)
    return "" if value is None else str(value)


def identity_findings(reference: Run, candidate: Run) -> tuple[Finding, ...]:
    """The candidate as the reference's own run, and labels of the two that contradict each other."""
    return (*_same_run(reference, candidate), *_contradictions(reference.manifest, candidate.manifest))


def _same_run(reference: Run, candidate: Run) -> Iterable[Finding]:
    old, new = reference.manifest, candidate.manifest
    if old.run_id and old.run_id == new.run_id:
        how = f"both are run {old.run_id}"
    elif linked := _linked(reference, candidate):
        how = f"{linked} is one file on disk"
    elif shared := _shared_times(old, new):
        how = f"they took the same time to the last digit ({', '.join(shared[:3])})"
    else:
        return
    yield Finding(code="same_run", where="run", message=f"{how}; run the candidate by itself, or compare another run")


def _shared_times(old: RunManifest, new: RunManifest) -> list[str]:
    """The places in which two runs took a time that no two runs share; empty if they may be two."""
    theirs, ours = _times(old), _times(new)
    shared = {where: time for where, time in theirs.items() if ours.get(where) == time and _by_a_clock(time)}
    enough = len(shared) > 1 or not any(map(_by_gpu_events, shared.values()))
    return list(shared) if enough else []


def _times(record: RunManifest) -> dict[str, float]:
    steps = {f"step {index}": time for index, time in enumerate(record.step_s)}
    return {
        "end to end": record.end_to_end_s,
        **{f"stage {name}": time for name, time in record.stage_s.items()},
    } | steps


def _by_a_clock(duration_s: float) -> bool:
    """True for a time with digits below a microsecond and long enough to scatter by far more than these."""
    return duration_s >= SHORTEST_TOLD_S and round(duration_s, 6) != duration_s


def _by_gpu_events(duration_s: float) -> bool:
    """True for a time that is a float32 number of milliseconds, as events give it: of 2 s, to 0.1 microseconds."""
    milliseconds = duration_s * 1e3
    return math.isclose(float(torch.tensor(milliseconds, dtype=torch.float32)), milliseconds, rel_tol=1e-13)


def _linked(reference: Run, candidate: Run) -> str | None:
    """A data file that both folders hold as one file, through a link or because they are one folder."""
    for name in DATA_FILES:
        both = reference.has(name) and candidate.has(name)
        if both and reference.file(name).is_same_file(candidate.file(name)):
            return name
    return None


def _contradictions(old: RunManifest, new: RunManifest) -> Iterable[Finding]:
    """What two runs on the same weights cannot both be.

    A reference that does not say it is older, and contradicts nothing. A known runner always says it, so a candidate
    that lost it is not taken for one that agrees.
    """
    pairs: dict[str, tuple[object, object]] = {
        "dtype": (old.dtype, new.dtype),
        "model_version": (old.model_version, new.model_version),
        "num_blocks": (old.num_blocks, new.num_blocks),
    }
    for where, (theirs, ours) in pairs.items():
        if theirs in (None, "") or theirs == ours:
            continue
        if ours not in (None, "") or new.runner in NAMES:
            message = f"reference says {theirs}, candidate says {'nothing' if ours in (None, '') else ours}"
            yield Finding(code="identity_mismatch", where=where, message=message)
