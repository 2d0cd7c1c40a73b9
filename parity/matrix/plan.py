"""A matrix file laid out as rows: every case on every device, and what a box needs of each put into the store."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from parity.fleet.matrix_file import (
    MatrixFile,
    RunnerEntry,
    is_forged,
    load_matrix,
    path_on_boxes,
    runners_there,
)
from parity.fleet.row import EngineOfRow, OfficialOfRow, Row
from parity.runs.environment import source_hash
from parity.runs.places import case_folders, data_roots, foreign_root
from parity.runs.store import Store, StoreEntry
from parity.trace.atomic import write_bytes_atomic
from runners.case import Case, case_document, load_case
from runners.errors import CaseError, CheckpointError, ConfigError, RunnerError
from runners.files import HeldFile
from runners.partial_folder import partial_folder
from runners.weights import WeightsFolder

MAX_PICTURE_BYTES: Final = 64 << 20
MAX_WEIGHTS_BYTES: Final = 1 << 38
MAX_PROJECT_BYTES: Final = 1 << 30  # of a file of a project
PROJECT_PARTS: Final = ("thresholds", "golden", "docs/measurements")


@dataclass(frozen=True, kw_only=True)
class MatrixPlan:
    """A matrix, ready to be handed out."""

    file: MatrixFile
    rows: tuple[Row, ...]
    left_out: tuple[RunnerEntry, ...]  # runners whose interpreter is not here


def plan_matrix(path: Path, store: Store) -> MatrixPlan:
    """Read a matrix file, lay it out, and put pictures, weights and a project's limits into the store.

    Raises: ConfigError, CaseError, CheckpointError, RunnerError for what cannot be run; RunError from the store.
    """
    file, beside = load_matrix(path), path.parent
    there, left_out = runners_there(file)
    if not there:
        raise ConfigError(f"{path}: none of its runners has an interpreter here; set the variables it names.")
    cases = cases_of(file.cases, beside)
    engines = {case.id: _engines_of(case.id, there, beside) for case in cases}
    _require_asked(there, cases)
    kept = _Kept(store)
    official = {
        one.release: OfficialOfRow(root=path_on_boxes(one.root, beside), python=path_on_boxes(one.python, beside))
        for one in file.official
    }
    forged = is_forged(file.weights)
    folder = beside / file.weights
    on_boxes = bool(file.weights_hash)
    weights_files = {} if forged or on_boxes else kept.weights(folder)
    project = _project(kept)
    rows = [
        Row(
            case=case_document(case),
            pictures={image.path: kept.file(case.image_path(image)) for image in case.request.images},
            weights=file.weights if forged else str(folder.absolute()) if on_boxes else "",
            weights_hash=file.weights_hash,
            weights_files=weights_files,
            device=device,
            official=official.get(case.reference),
            engines=engines[case.id],
            repeats=file.repeats,
            isolate=file.isolate,
            oracle=file.oracle,
            perf=file.perf,
            taps=file.taps,
            reports=file.reports,
            code=source_hash(),
            project=project,
        )
        for case in cases
        for device in file.devices
    ]
    return MatrixPlan(file=file, rows=tuple(rows), left_out=tuple(left_out))


def cases_of(patterns: Sequence[str], beside: Path) -> list[Case]:
    """The cases that patterns name, in their order, each once.

    Args:
        patterns: globs of ids under golden/, or, with a slash or the ending `.toml`, of files beside the matrix file.
        beside: folder of the matrix file.
    Raises: CaseError for a pattern that names none, or two cases of one id.
    """
    found: dict[str, Case] = {}
    for pattern in patterns:
        matched = [load_case(path) for path in _case_files(pattern, beside)]
        if not matched:
            known = ", ".join(folder.name for folder in case_folders()) or "there is none"
            raise CaseError(f"No case fits {pattern[:200]!r}; under golden/ there are: {known}.")
        for case in matched:
            same = found.setdefault(case.id, case)
            if case_document(same) != case_document(case):
                raise CaseError(f"Two cases of the matrix are called {case.id!r}, and differ; give one another id.")
    return list(found.values())


def _case_files(pattern: str, beside: Path) -> Iterator[Path]:
    if "/" not in pattern and not pattern.endswith(".toml"):
        yield from (folder / "case.toml" for folder in case_folders() if fnmatchcase(folder.name, pattern))
    elif PurePosixPath(pattern).is_absolute():
        yield Path(pattern)
    else:
        yield from sorted(beside.glob(pattern))


def _engines_of(case_id: str, there: Sequence[RunnerEntry], beside: Path) -> tuple[EngineOfRow, ...]:
    """The engines of a case's row. Raises: ConfigError if no runner is asked for it, since nothing then judges it."""
    engines = tuple(_engine(one, beside) for one in there if one.is_asked_for(case_id))
    if not engines:
        raise ConfigError(
            f"No runner of the matrix that is here is asked for the case {case_id!r}; leave it out of cases, or name "
            "it in the cases of a runner."
        )
    return engines


def _require_asked(there: Sequence[RunnerEntry], cases: Sequence[Case]) -> None:
    """Refuse a runner whose patterns name no case, a typo that would leave its column empty. Raises: ConfigError."""
    for one in there:
        if not any(one.is_asked_for(case.id) for case in cases):
            raise ConfigError(
                f"Runner {one.label!r} is asked for {', '.join(one.cases)[:200]}, which no case of the matrix fits: "
                f"{', '.join(case.id for case in cases)}."
            )


def _engine(entry: RunnerEntry, beside: Path) -> EngineOfRow:
    file, colon, name = entry.runner.rpartition(":")
    own = bool(colon) and file.endswith(".py")
    path = beside.absolute() / file
    return EngineOfRow(
        label=entry.label,
        runner=f"{path}:{name}" if own else entry.runner,
        python=path_on_boxes(entry.python, beside),
        engine_root=path_on_boxes(entry.engine_root, beside),
        options=entry.options,
        num_gpus=entry.num_gpus,
        source=HeldFile(path, RunnerError, "docs/runners.md shows a runner").sha256 if own else "",
    )


class _Kept:
    """Files put into the store, each once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: dict[Path, StoreEntry] = {}

    def file(self, path: Path, max_bytes: int = MAX_PICTURE_BYTES) -> StoreEntry:
        if path not in self._entries:
            held = HeldFile(path, CaseError, "put it there", max_bytes=max_bytes)
            self._entries[path] = self._store.put(held)
        return self._entries[path]

    def weights(self, folder: Path) -> dict[str, StoreEntry]:
        """The files of a weights folder. Raises: CheckpointError if it is none."""
        weights = WeightsFolder(folder)
        paths = [weights.checkpoint_path, *sorted(one for one in weights.gemma_folder.iterdir() if one.is_file())]
        if any(path.is_symlink() for path in paths):
            raise CheckpointError(f"{folder} has links in it; name the folder that the files themselves are in.")
        return {path.relative_to(folder).as_posix(): self.file(path, MAX_WEIGHTS_BYTES) for path in paths}

    def listing(self, entries: dict[str, StoreEntry]) -> StoreEntry:
        """A list of files, itself a file of the store."""
        text = json.dumps(msgspec.to_builtins(entries), sort_keys=True)
        with partial_folder(Path.cwd() / "project") as place:
            write_bytes_atomic(place / "files.json", text.encode())
            return self.file(place / "files.json", MAX_PROJECT_BYTES)


def _project(kept: _Kept) -> StoreEntry | None:
    """The limits, goldens and baselines of one's own project, which no box has; None where there is none."""
    root = foreign_root(data_roots()[0])
    if root is None:
        return None
    entries: dict[str, StoreEntry] = {}
    for part in PROJECT_PARTS:
        for path in sorted((root / part).rglob("*")):
            hidden = any(name.startswith(".") for name in path.relative_to(root).parts)
            if path.is_file() and not path.is_symlink() and not hidden:
                entries[path.relative_to(root).as_posix()] = kept.file(path, MAX_PROJECT_BYTES)
    return kept.listing(entries)
