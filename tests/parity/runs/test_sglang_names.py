from pathlib import Path

import pytest

from parity.runs.golden import find_case
from parity.runs.places import shipped_root
from parity.runs.sglang_names import SGLANG_NAMES
from parity.suite.project import begin_project, copy_case
from runners.errors import CaseError

# Every case of LTX-2.3 in SGLang's gpu_cases.py, the name that its issue tracker has for one, and what each runs.
KNOWN_TO_SGLANG = {
    "ltx_2.3_one_stage_ti2v": ("one_stage", 1),
    "ltx_2.3_two_stage_ti2v": ("two_stage", 1),
    "ltx_2.3_two_stage_t2v_2gpus": ("two_stage", 0),
    "ltx_2_3_two_stage_ti2v_2gpus": ("two_stage", 1),
    "ltx_2_3_hq_pipeline": ("two_stage_hq", 0),
}


@pytest.mark.parametrize("name", KNOWN_TO_SGLANG)
def test_a_name_that_sglang_knows_is_found(name: str) -> None:
    case = find_case(name)
    assert (case.pipeline, len(case.request.images)) == KNOWN_TO_SGLANG[name]
    assert case.reference == "1.0.0" and case.id == SGLANG_NAMES.get(name, name)


def test_aliases_stand_for_cases_and_hide_none() -> None:
    folders = {path.parent.name for path in (shipped_root() / "golden").glob("*/case.toml")}
    assert set(SGLANG_NAMES.values()) <= folders and not SGLANG_NAMES.keys() & folders
    assert SGLANG_NAMES.keys() <= KNOWN_TO_SGLANG.keys()


def test_a_mistyped_one_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"Did you mean 'ltx_2_3_hq_pipeline'\?"):
        find_case("ltx_2_3_hq_pipelin")
    (tmp_path / "golden").mkdir()
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))  # where there are no such cases, there are no such names
    with pytest.raises(CaseError, match="there is none"):
        find_case("ltx_2_3_hq_pipelin")


def test_a_case_of_ones_own_may_have_such_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    begin_project(tmp_path, "parity")
    copied = copy_case("ltx_2.3_two_stage_t2v_2gpus")
    assert copied.name == "ltx_2.3_two_stage_t2v"
    own = copied.with_name("ltx_2.3_two_stage_t2v_2gpus")
    own.mkdir()
    text = (copied / "case.toml").read_text(encoding="utf-8").replace(copied.name, own.name)
    (own / "case.toml").write_text(text, encoding="utf-8")
    assert find_case(own.name).id == own.name
