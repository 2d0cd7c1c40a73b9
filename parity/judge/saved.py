"""Verdicts that were reached where the numbers were measured, kept to be reached again without the machine.

`golden/<case id>/numbers/*.json` holds the numbers of one comparison with the golden's own run, and the outcome. Judged
again they must come to the same outcome, so a limit that was changed, a golden that was replaced or an edited number
shows. A golden that is too large to be run in CI must have such numbers.

A GPU that the golden was not made on has other bits of its own. There a candidate, such as a faster tier, is compared
with an official run beside it on the same GPU, by the limits of that GPU; such numbers name it in their file's name.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from parity.diff.metric import METRICS
from parity.diff.runs import RunsDiff, numbers_of, subset_of_case, subset_phrase
from parity.judge.document import load_document
from parity.judge.reach import distance
from parity.judge.registry import Registry
from parity.judge.verdict import Outcome, Profile, Verdict
from parity.runs.golden import GOLDEN_FILE, NUMBERS_FOLDER, blessing_of, golden_of, has_golden
from parity.runs.places import case_folders, own_case_folder
from parity.trace.atomic import own_folder, write_json_atomic
from runners.errors import RegistryError, RunError
from runners.protocol import DTYPES, TIERS
from runners.strict import Strict

SCHEMA_VERSION: Final = 1
EQUALITIES: Final = {
    name: f"outputs.bit_equal.{name}" for name in ("frames", "audio", "video_latent", "audio_latent")
}  # what a metric's name begins with -> whether that output has the reference's bits

# A file's name is made of what numbers say, which may come from anybody: a runner's plain name and of known words.
_ELSEWHERE: Final = "@"  # before the name of a GPU that the golden was not made on
_NUMBERS_NAME: Final = (
    rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,59}}_({'|'.join(TIERS)})_({'|'.join(DTYPES)})_(exact|limits)"
    rf"({_ELSEWHERE}[A-Za-z0-9_]{{1,60}})?\.json"
)


class SavedVerdict(Strict, frozen=True, kw_only=True):
    """One comparison's numbers and what they came to."""

    schema_version: Literal[1]
    profile: Profile
    outcome: Outcome
    numbers: dict[str, Any]  # as `parity diff --out` writes them

    def found(self) -> RunsDiff:
        """The numbers. Raises: RunError if they do not have their form."""
        return numbers_of(self.numbers, "the saved numbers")


def require_of_golden(found: RunsDiff) -> None:
    """Refuse numbers that were not measured against the run that is the case's golden now, or on another GPU.

    Raises: RunError.
    """
    blessing = blessing_of(found.case)
    known = (blessing.run_sha256, blessing.source_sha256)
    of_official = found.reference.runner == "official"
    if not of_official or (found.reference.run_sha256 not in known and not gpu_elsewhere(found)):
        raise RunError(
            f"The numbers of {found.case!r} were measured against another run ({found.reference.run_sha256[:12]}) than "
            "its golden; measure them against the golden, and save them again."
        )


def gpu_elsewhere(found: RunsDiff) -> str:
    """The GPU that both runs of some numbers were made on, if it is another than the golden's; else ""."""
    golden = str(golden_of(found.case).manifest.environment.get("device_name", ""))
    reference, candidate = found.reference, found.candidate
    apart = reference.run_sha256 != candidate.run_sha256 and not found.environment
    together = reference.device == candidate.device == "cuda" and reference.processor == candidate.processor
    return reference.processor if apart and together and reference.processor != golden else ""


def save_verdict(found: RunsDiff, verdict: Verdict) -> Path:
    """Keep numbers beside the golden they were measured against.

    Raises: RunError if that is another one, or no file can be named after their runner; OutputError.
    """
    require_of_golden(found)
    side = found.candidate
    gpu = re.sub(r"[^A-Za-z0-9]+", "_", gpu_elsewhere(found))
    name = f"{side.runner}_{side.tier}_{side.dtype}_{verdict.profile}{gpu and _ELSEWHERE}{gpu}.json"
    if not re.fullmatch(_NUMBERS_NAME, name):
        raise RunError(f"The numbers of {found.case!r} are of {name!r}, which names no runner, tier and dtype.")
    path = own_folder(own_case_folder(found.case), NUMBERS_FOLDER, name)
    saved = SavedVerdict(
        schema_version=SCHEMA_VERSION, profile=verdict.profile, outcome=verdict.outcome, numbers=found.document()
    )
    write_json_atomic(path, msgspec.to_builtins(saved))
    return path


def load_verdict(path: Path) -> SavedVerdict:
    """Read what `save_verdict` wrote. Raises: RegistryError."""
    return load_document(path, SavedVerdict, "saved verdict")


def saved_verdicts() -> list[Path]:
    """Every saved verdict of the checkout."""
    return [path for folder in case_folders() for path in sorted(folder.glob(f"{NUMBERS_FOLDER}/*.json"))]


def require_consistent(found: RunsDiff) -> None:
    """Refuse equal bits beside errors that are not zero. Raises: RunError."""
    for facet, equality in EQUALITIES.items():
        if found.metrics.get(equality) != 1.0:
            continue
        for name, value in found.metrics.items():
            metric = METRICS[name]
            if not name.startswith((f"{facet}.", f"small_{facet}.")) or metric.direction == "exact":
                continue
            if distance(value, metric.unit, metric.direction) != 0:
                raise RunError(
                    f"The numbers of {found.case!r} say that {equality} is 1 and {name} is {value}: both cannot be. "
                    "They were changed; measure them again."
                )


def require_population(registry: Registry) -> None:
    """Refuse limits that were measured on something else than the golden of their case keeps now.

    Raises: RegistryError.
    """
    for where, limits in registry.cases.items():
        if not has_golden(where.case):
            continue
        kept = subset_phrase(subset_of_case(where.case))
        for name in sorted({limit.calibration for limit in limits.values() if limit.calibration is not None}):
            calibration = registry.calibrations[name]
            if changed := calibration.changed_population(where.case, kept):
                raise RegistryError(
                    f"Limits of '{where}' were not measured on what its golden keeps ({changed[0]}), so they decide "
                    f"nothing; measure them again as then, with --weights and --limits-only: `{calibration.command}`."
                )


def require_whole(paths: Sequence[Path]) -> None:
    """Refuse a golden of another device than a CPU that has no numbers to be judged by here. Raises: RunError."""
    held = {path.parent.parent for path in paths if _ELSEWHERE not in path.name}
    for path in (path for folder in case_folders() for path in folder.glob(GOLDEN_FILE)):
        if path.parent not in held and golden_of(path.parent.name).manifest.environment.get("device") != "cpu":
            raise RunError(
                f"The golden in {path.parent} is of a GPU and has no numbers of a candidate; measure on a GPU with "
                "`make parity-gpu`, then use --record."
            )
