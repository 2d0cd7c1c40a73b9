"""The one opener: what waits, never ends, or is larger than it may be is refused before a byte is read."""

import ast
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runners.errors import CheckpointError, RunError
from runners.files import MAX_HEADER_BYTES, HeldFile, opened, opened_tensors, read_bytes, sha256_of

ROOT = Path(__file__).parent.parent.parent
# Where a file is opened otherwise, and why it may be: it is our own, or no file at all.
OWN = {
    "runners/files.py": "the opener",
    "runners/partial_folder.py": "folders that are locked",
    "runners/forge/check.py": "a case of the package",
    "runners/forge/known.py": "a table of the package",
    "runners/forge/make.py": "writes the checkpoint",
    "runners/forge/presets.py": "tables of the package",
    "runners/ltx23/image.py": "pictures through the opener, clips in memory",
    "runners/official/files.py": "lists of hashes of the package",
    "parity/defects/pictures.py": "defects put into the reading of pictures that were read before",
    "parity/cli/main.py": "what has no reader",
    "parity/fleet/ledger.py": "the lock of a ledger",
    "parity/fleet/row_process_main.py": "what has no reader, and writes a log",
    "parity/report/ending.py": "writes",
    "runners/closed_input.py": "standard input, which is closed",
    "parity/cli/new_runner.py": "what was just written",
    "parity/runs/golden_folder.py": "a folder that is locked",
    "parity/suite/new_runner.py": "templates of the package",
    "parity/report/page.py": "style and script of the package",
    "parity/report/page_sound.py": "writes into memory",
    "parity/runs/clip.py": "clips in memory, read through the opener",
    "parity/runs/frame_folder.py": "pictures in memory, read through the opener",
    "parity/runs/through_encoder.py": "writes into memory",
    "parity/runs/child_main.py": "what the parent process wrote",
    "parity/runs/environment.py": "the kernel's own tables, and our source",
    "parity/runs/reduced.py": "pictures through the opener",
    "parity/runs/store.py": "whatever a store gives, in pieces and counted",
    "parity/runs/video_file.py": "writes a clip",
    "parity/trace/atomic.py": "writes",
    "parity/trace/full_tensors.py": "writes",
    "parity/trace/journal.py": "writes",
}
OPENING = {"open", "read_text", "read_bytes", "safe_open", "load_file", "from_file", "fdopen"}
READERS = {"read_text": "runners.load", "read_bytes": "runners.files"}  # functions of ours that have such a name


def openings(text: str) -> Iterator[str]:
    """Calls that open a file otherwise than through `runners.files` and `runners.load`."""
    tree = ast.parse(text)
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if READERS.get(alias.name) == node.module
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.split(".")[-1] in OPENING and name not in ours:
                yield f"{name} in line {node.lineno}"


def sources() -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in ("parity", "runners")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def test_nothing_opens_a_file_of_a_stranger_but_the_opener() -> None:
    found = {name: list(openings(text)) for name, text in sources().items()}
    found["runners/load.py"] = []  # `read_text` is its own
    assert {name: calls for name, calls in found.items() if calls and name not in OWN} == {}
    assert [name for name in OWN if not found[name]] == []  # an exception that is needed no more


@pytest.mark.parametrize(
    "text",
    [
        "open(path)",
        "path.open()",
        "path.read_text()",
        "Image.open(path)",
        "safetensors.safe_open(path)",
        "os.open(p, 0)",
    ],
)
def test_the_walk_sees_every_way_to_open_a_file(text: str) -> None:
    assert len(list(openings(text))) == 1
    assert not list(openings(f"from runners.files import read_bytes\nread_bytes(path)\n# {text}"))


def test_a_regular_file_within_its_bound_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    with opened(path, max_bytes=5) as file:
        assert file.read() == b"12345"
    assert read_bytes(path, max_bytes=5) == b"12345"
    # sha256sum of these five bytes
    assert sha256_of(path, max_bytes=5) == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"


def test_what_waits_or_never_ends_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "link", tmp_path):
        for read in (read_bytes, sha256_of):
            with pytest.raises(RunError, match="is not a regular file; restore it"):
                read(path)
        with (
            pytest.raises(CheckpointError, match="is not a regular file; copy it"),
            opened_tensors(path, CheckpointError, "copy it"),
        ):
            pass
    for path in (tmp_path / "none", tmp_path / "zero\0byte", tmp_path / ("long" * 100)):
        with pytest.raises(RunError, match="is no file that can be read"):
            read_bytes(path)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(6 << 30)
    before_s = time.process_time()
    for read in (read_bytes, sha256_of):
        with pytest.raises(RunError, match=r"sparse has more than 134217728 bytes"):
            read(path)
    with pytest.raises(RunError, match="more than 99 bytes"), opened_tensors(path, max_bytes=99):
        pass
    assert time.process_time() - before_s < 1  # hashing it takes several seconds


@pytest.mark.parametrize("length", [0, 1, 1 << 20, MAX_HEADER_BYTES + 1, 1 << 63])
def test_a_header_that_claims_more_than_there_is_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + bytes(100))
    with path.open("r+b") as file:
        file.truncate(MAX_HEADER_BYTES + 100 if length > MAX_HEADER_BYTES else 108)
    with (
        pytest.raises(RunError, match=rf"not a whole safetensors file: header of {length} bytes"),
        opened_tensors(path),
    ):
        pass


def test_tensors_are_those_of_the_file_that_was_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, tmp_path / "b.safetensors")
    save_file({"a": torch.zeros(3)}, path)
    with opened_tensors(path) as tensors:
        (tmp_path / "b.safetensors").replace(path)  # put in its place while it is open
        assert torch.equal(tensors.get_tensor("a"), torch.zeros(3))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="not a whole safetensors file"), opened_tensors(path):
        pass


def test_what_is_read_of_a_held_file_is_what_was_hashed(tmp_path: Path) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    save_file({"a": torch.ones(3)}, other)
    good, wanted = path.read_bytes(), sha256_of(path)
    held = HeldFile(path)
    assert (held.sha256, held.size, str(held)) == (wanted, len(good), str(path))
    assert held.is_same_file(HeldFile(path)) and not held.is_same_file(HeldFile(other))
    other.replace(path)  # put in its place after it was hashed
    for _ in range(2):  # from its beginning each time
        assert read_bytes(held) == good and sha256_of(path) != wanted
        with opened_tensors(held) as tensors:
            assert torch.equal(tensors.get_tensor("a"), torch.zeros(3))
        assert Path(held.address()).read_bytes() == good
    with pytest.raises(RunError, match=r"has more than 9 bytes; restore it"):
        read_bytes(held, max_bytes=9)


def test_a_held_file_that_is_written_into_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    held = HeldFile(path)
    os.utime(path, ns=(1, 1))  # touched, and nothing else
    assert read_bytes(held) == b"12345"
    path.write_bytes(b"12346")
    os.utime(path, ns=(1, 1))  # as it was
    for read in (read_bytes, HeldFile.address):
        with pytest.raises(RunError, match="a was changed while it was read; restore it"):
            read(held)


def test_a_held_file_is_closed_with_its_last_reference(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    before = len(list(Path("/dev/fd").iterdir()))
    held = [HeldFile(path) for _ in range(7)]
    assert len(list(Path("/dev/fd").iterdir())) == before + 7
    del held
    assert len(list(Path("/dev/fd").iterdir())) == before
