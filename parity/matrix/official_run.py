"""The official run of a row: taken from the store if it was made in this very environment, else made and put there.

Its key is a hash of everything that decides its bits and times: case, pictures, weights, official code, what is
recorded, and the whole fingerprint of the environment, not the part of it alone that can change numbers.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from parity.fleet.row import Reference, Row
from parity.matrix.brought import box_cache
from parity.runs.child import environment_in
from parity.runs.environment import fingerprint_of_runs
from parity.runs.folder import DATA_FILES, RUN_FILE, TRACE_FILE, Run, read_run
from parity.runs.store import Store, StoreEntry
from parity.trace.atomic import changing, folder_atomic, plain
from runners.case import Case, case_document
from runners.errors import ParityError, RunError
from runners.files import sha256_of
from runners.load import parse
from runners.official.files import official_code
from runners.strict import Strict
from runners.weights import Weights

REMEDY: Final = "it is made again"


class OfficialRecord(Strict, frozen=True, kw_only=True):
    """The record of an official run in the store."""

    files: dict[str, StoreEntry]
    times_s: tuple[float, ...]  # end to end, of runs whose taps were recorded
    peak_bytes: int = 0
    untapped_s: tuple[float, ...] = ()  # the same of runs that were made to be timed


class OfficialRun:
    """The official run that a row wants: which one it is, and where it is kept."""

    def __init__(self, row: Row, case: Case, weights: Weights, device: torch.device, store: Store) -> None:
        """Work out the key. Raises: RunnerError if the official code, or its interpreter, is not on this box."""
        self._store, self._case, self._lasting = store, case, True
        self._traced = bool(row.taps)
        root = None if row.official is None else Path(row.official.root)
        python = None if row.official is None or not row.official.python else Path(row.official.python)
        self.environment = (
            fingerprint_of_runs(device, case.reference)
            if python is None
            else environment_in(python, device, case.reference)
        )
        self._wanted: dict[str, Any] = {
            "case": case_document(case),
            "inputs": {image.path: sha256_of(case.image_path(image)) for image in case.request.images},
            "weights_hash": weights.hash,
        }
        of = {
            **self._wanted,
            "taps": row.taps,
            "code": official_code(root).sha256,
            "environment": self.environment,
        }
        self.key = hashlib.sha256(json.dumps(plain(of), sort_keys=True).encode()).hexdigest()

    def alone(self) -> AbstractContextManager[None]:
        """Look and make while no other row of this box does: what one makes the next one finds."""
        place = box_cache() / "official"
        place.mkdir(parents=True, exist_ok=True)
        return changing(place / self.key[:4])

    def fetched(self, folder: Path) -> Reference | None:
        """Bring the run into `folder` if the store has it, whole and of this environment; None if it has not.

        Raises: RunError if the store cannot be asked.
        """
        text = self._store.record(f"official/{self.key}")
        if text is None:
            return None
        try:
            found = msgspec.convert(parse(text, self.key, RunError, REMEDY), OfficialRecord, strict=True)
            if not {RUN_FILE} < found.files.keys() <= {RUN_FILE, *DATA_FILES} or not found.times_s:
                return None
            with folder_atomic(folder, lambda _: False, replace=False) as new:
                for name, entry in found.files.items():
                    self._store.get(entry, new / name)
                self._require_wanted(read_run(new))
        except (msgspec.ValidationError, ParityError):  # damaged, or anybody's: it is made again
            return None
        return self._reference(found, reused=True)

    def keep(self, run: Run) -> Reference:
        """Put a run that was made here into the store, to be found again if it is what its key says.

        Raises: RunError if the store does not take it.
        """
        record = OfficialRecord(
            files=stored_run(run, self._store),
            times_s=(run.manifest.end_to_end_s,),
            peak_bytes=run.manifest.peak_bytes,
        )
        try:
            self._require_wanted(run)
        except RunError:  # it changed its environment while it ran: good here, and never found again
            self._lasting = False
        return self._kept(record)

    def keep_times(self, reference: Reference, more_s: Sequence[float], *, untapped: bool) -> Reference:
        """Add times of further runs of it. Raises: RunError if the store does not take them."""
        tapped, plain = reference.times_s, reference.untapped_s
        record = OfficialRecord(
            files=reference.files,
            peak_bytes=reference.peak_bytes,
            times_s=tapped if untapped else (*tapped, *more_s),
            untapped_s=(*plain, *more_s) if untapped else plain,
        )
        return msgspec.structs.replace(self._kept(record), reused=reference.reused)

    def _kept(self, record: OfficialRecord) -> Reference:
        if self._lasting:
            self._store.put_record(f"official/{self.key}", msgspec.json.encode(record).decode())
        return self._reference(record, reused=False)

    def _reference(self, record: OfficialRecord, *, reused: bool) -> Reference:
        return Reference(
            files=record.files,
            reused=reused,
            times_s=record.times_s,
            untapped_s=record.untapped_s,
            peak_bytes=record.peak_bytes,
            release=self._case.reference,
        )

    def _require_wanted(self, run: Run) -> None:
        manifest = run.manifest
        found = {"case": manifest.case, "inputs": manifest.inputs, "weights_hash": manifest.weights_hash}
        same = found == self._wanted and manifest.environment == self.environment and manifest.runner == "official"
        if not same or run.has(TRACE_FILE) != self._traced:
            raise RunError(f"{run.folder} is not the official run of {self._case.id!r} in this environment.")


def stored_run(run: Run, store: Store) -> dict[str, StoreEntry]:
    """Put all files of a run into the store. Returns: name to content."""
    return {name: store.put(run.file(name)) for name in (RUN_FILE, *run.manifest.files)}
