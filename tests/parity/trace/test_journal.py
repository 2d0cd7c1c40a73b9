from pathlib import Path

import pytest

from parity.trace import journal
from parity.trace.journal import MAGIC, Extent, JournalWriter, scan
from runners.errors import RunError

PAYLOADS = [b"first", b"", b"a longer third record"]


def write(path: Path) -> bytes:
    with JournalWriter(path) as writer:
        for payload in PAYLOADS:
            writer.append(payload)
    return path.read_bytes()


def scanned(path: Path) -> tuple[list[Extent], bool]:
    with path.open("rb") as file:
        return scan(file, str(path))


def payloads(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[extent.offset : extent.offset + extent.length] for extent in scanned(path)[0]]


def test_what_was_appended_is_found_in_order(tmp_path: Path) -> None:
    write(tmp_path / "j")
    assert payloads(tmp_path / "j") == PAYLOADS
    assert scanned(tmp_path / "j")[1]


def test_a_record_is_readable_as_soon_as_it_was_appended(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "j")
    assert scanned(tmp_path / "j") == ([], True)
    writer.append(b"now")
    assert payloads(tmp_path / "j") == [b"now"]
    writer.close()


def test_a_journal_cut_at_any_byte_keeps_exactly_its_whole_records(tmp_path: Path) -> None:
    data = write(tmp_path / "j")
    ends = [len(MAGIC) + sum(12 + len(p) for p in PAYLOADS[:n]) for n in range(4)]
    for cut in range(len(MAGIC), len(data) + 1):
        (tmp_path / "cut").write_bytes(data[:cut])
        whole_records = sum(end <= cut for end in ends[1:])
        assert payloads(tmp_path / "cut") == PAYLOADS[:whole_records]
        assert scanned(tmp_path / "cut")[1] == (cut in ends)


def test_a_changed_byte_ends_the_journal_before_its_record(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "j"))
    data[-3] ^= 1
    (tmp_path / "j").write_bytes(data)
    assert payloads(tmp_path / "j") == PAYLOADS[:2] and not scanned(tmp_path / "j")[1]


def test_a_length_beyond_the_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(MAGIC + (2**63).to_bytes(8, "little") + bytes(4) + b"x")
    assert scanned(tmp_path / "j") == ([], False)


def test_other_files_and_journals_of_other_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"something else")
    with pytest.raises(RunError, match="not a journal"):
        scanned(tmp_path / "j")
    with pytest.raises(RunError, match="exists already"):
        JournalWriter(tmp_path / "j")


def test_a_journal_of_more_records_than_a_run_leaves_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "j")
    monkeypatch.setattr(journal, "MOST_RECORDS", 2)
    with pytest.raises(RunError, match="more than 2 records"):
        scanned(tmp_path / "j")
