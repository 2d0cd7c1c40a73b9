"""The official code is a reference only as long as its files are those that were released."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from runners.errors import RunnerError
from runners.official import files
from runners.official.files import KNOWN_RELEASES, differing_files, known_hashes, package_root, require_release


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the installed source files of the release."""
    root = package_root()
    for name in known_hashes("1.0.0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, tmp_path / name)
    return tmp_path


def test_what_is_installed_is_the_release() -> None:
    assert "1.0.0" in KNOWN_RELEASES
    assert require_release("1.0.0") == package_root()
    hashes = known_hashes("1.0.0")
    assert "ltx_core/components/guiders.py" in hashes and "ltx_pipelines/ti2vid_one_stage.py" in hashes


def test_changed_missing_and_added_files_are_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert differing_files(copied, "1.0.0") == []
    guiders = copied / "ltx_core/components/guiders.py"
    guiders.write_bytes(guiders.read_bytes() + b"\n")
    (copied / "ltx_core/utils.py").unlink()
    (copied / "ltx_pipelines/extra.py").write_text("x = 1\n")
    assert differing_files(copied, "1.0.0") == [
        "ltx_core/components/guiders.py (changed)",
        "ltx_core/utils.py (missing)",
        "ltx_pipelines/extra.py (not part of it)",
    ]
    monkeypatch.setattr(files, "package_root", lambda: copied)
    with pytest.raises(RunnerError, match=r"not release 1.0.0: ltx_core/components/guiders.py \(changed\), "):
        require_release("1.0.0")


def test_no_more_than_ten_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "package_root", lambda: tmp_path)
    count = len(known_hashes("1.0.0"))
    with pytest.raises(RunnerError, match=rf"and {count - 10} more\. ") as caught:
        require_release("1.0.0")
    assert str(caught.value).count("(missing)") == 10


def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RunnerError, match=r"ltx_core is not installed; `pip install .*, in a checkout `make setup`"):
        package_root()
