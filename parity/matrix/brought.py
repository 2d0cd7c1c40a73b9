"""Inputs of a row, brought to its box from the store: the case's pictures, the weights, a project's limits.

Weights stay on the box, in the user's cache under their content's hash, and are brought once. The hash of their
tensors, which takes minutes at full size, stays beside them for as long as no file of theirs is written to.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
import torch

from parity.fleet.row import Row
from parity.runs.places import PROJECT_FILE, PROJECT_FOLDER
from parity.runs.store import Store, StoreEntry
from parity.trace.atomic import changing, folder_atomic, write_bytes_atomic
from runners.case import Case, parse_case
from runners.errors import CaseError, CheckpointError, RunError
from runners.forge.weights import ForgedWeights, weights_named
from runners.load import load
from runners.strict import Strict
from runners.weights import WeightsFolder

MAX_LISTING_BYTES: Final = 64 << 20


def box_cache() -> Path:
    """The folder of this box in which what rows share is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx-parity" / "boxes"


def bring_case(row: Row, store: Store, place: Path) -> Case:
    """The case of a row, its pictures beside it. Raises: CaseError; RunError if the store has them not."""
    from runners.case import case_text

    folder = place / "case"
    folder.mkdir()
    try:
        case = msgspec.convert({**row.case, "folder": str(folder)}, Case, strict=True)
    except (msgspec.ValidationError, CaseError) as error:
        raise CaseError(
            f"The case of a row does not fit its form ({error}); are driver and box of one version?"
        ) from error
    case = parse_case(case_text(case), folder)  # held to everything that a file is held to
    for image in case.request.images:
        target = case.image_place(image)
        target.parent.mkdir(parents=True, exist_ok=True)
        if image.path not in row.pictures:
            raise CaseError(f"The row of {case.id!r} lacks its picture {image.path[:100]!r}.")
        store.get(row.pictures[image.path], target)
    return case


def bring_weights(row: Row, store: Store, device: torch.device) -> WeightsFolder | ForgedWeights:
    """The weights of a row. Raises: CheckpointError if a folder of the box has other ones; RunError."""
    if not row.weights_files:
        found = weights_named(row.weights, device)
        if row.weights_hash and found.hash != row.weights_hash:
            raise CheckpointError(
                f"The weights in {row.weights} of this box have the hash {found.hash[:12]}; wanted "
                f"{row.weights_hash[:12]}. Copy the others there, or leave weights_hash out."
            )
        return found
    listed = json.dumps(msgspec.to_builtins(row.weights_files), sort_keys=True)
    folder = box_cache() / "weights" / hashlib.sha256(listed.encode()).hexdigest()
    with changing(folder):
        if not _is_complete(folder):
            with folder_atomic(folder, _is_complete, replace=True) as new:
                _bring(row.weights_files, store, new)
        return BoxWeights(folder, _hash_of(folder, row.weights_files))


class BoxWeights(WeightsFolder):
    """A weights folder of the box's cache, whose hash is known."""

    def __init__(self, folder: Path, known_hash: str) -> None:
        """Open the folder. Raises: CheckpointError."""
        super().__init__(folder)
        self._known_hash = known_hash

    @cached_property
    def hash(self) -> str:
        """Hash of every tensor of the checkpoint and of Gemma, hex."""
        return self._known_hash


class HashRecord(Strict, frozen=True, kw_only=True):
    """The hash of weights, and the state of their files when it was taken."""

    weights_hash: str
    files: dict[str, tuple[int, int]]  # size and time of the last writing, ns


def _hash_of(folder: Path, names: Collection[str]) -> str:
    """The hash that was taken of weights before, taken again if a file was written to since."""
    found = {name: (folder / name).stat() for name in names}
    state = {name: (one.st_size, one.st_mtime_ns) for name, one in found.items()}
    path = folder.with_name(f"{folder.name}.json")
    if path.is_file():
        try:
            record = load(path, HashRecord, CheckpointError, "it is taken again", max_bytes=MAX_LISTING_BYTES)
            if record.files == state:
                return record.weights_hash
        except CheckpointError:
            pass
    taken = WeightsFolder(folder).hash
    write_bytes_atomic(path, msgspec.json.encode(HashRecord(weights_hash=taken, files=state)))
    return taken


def bring_project(row: Row, store: Store, place: Path) -> None:
    """Make `place`, where a row works, a project with what its driver's has; without one, what ships is found."""
    if row.project is None:
        return
    store.get(row.project, place / "files.json")
    entries = load(
        place / "files.json",
        dict[str, StoreEntry],
        RunError,
        "begin the matrix anew",
        max_bytes=MAX_LISTING_BYTES,
    )
    root = place / PROJECT_FOLDER
    root.mkdir()
    write_bytes_atomic(root / PROJECT_FILE, b'root = "."\n')
    _bring(entries, store, root)


def _bring(entries: Mapping[str, StoreEntry], store: Store, folder: Path) -> None:
    for name, entry in entries.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise RunError(f"{name[:200]!r} would lie outside of its folder; this list of files is not ours.")
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        store.get(entry, target)


def _is_complete(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("ltx-2.3*.safetensors"))
