"""The official run of a row: taken from the store if it was made in this very environment, else made and put there.

Its key is a hash of everything that decides its bits and times: case, pictures, weights, official code, what is
recorded, and the whole fingerprint of the environment, not the part of it alone that can change numbers.
"""

import hashlib
import json
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
    times_s: tuple[float, ...]


class OfficialRun:
    """The official run that a row wants: which one it is, and where it is kept."""

    def __init__(self, row: Row, case: Case, weights: Weights, device: torch.device, store: Store) -> None:
        """Work out the key. Raises: RunnerError if the official code, or its interpreter, is not on this box."""
        self._store, self._case, self._taps = store, case, row.taps
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
        return Reference(files=found.files, reused=True, times_s=found.times_s, release=self._case.reference)

    def keep(self, run: Run, times_s: tuple[float, ...]) -> Reference:
        """Put a run that was made here into the store.

        Raises: RunError if the store does not take it, or it is another run than is wanted.
        """
        self._require_wanted(run)
        files = stored_run(run, self._store)
        record = OfficialRecord(files=files, times_s=times_s)
        self._store.put_record(f"official/{self.key}", msgspec.json.encode(record).decode())
        return Reference(files=files, reused=False, times_s=times_s, release=self._case.reference)

    def _require_wanted(self, run: Run) -> None:
        manifest = run.manifest
        found = {"case": manifest.case, "inputs": manifest.inputs, "weights_hash": manifest.weights_hash}
        same = found == self._wanted and manifest.environment == self.environment and manifest.runner == "official"
        if not same or not run.has(TRACE_FILE):
            raise RunError(f"{run.folder} is not the official run of {self._case.id!r} in this environment.")


def stored_run(run: Run, store: Store) -> dict[str, StoreEntry]:
    """Put all files of a run into the store. Returns: name to content."""
    return {name: store.put(run.file(name)) for name in (RUN_FILE, *run.manifest.files)}
