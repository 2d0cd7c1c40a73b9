"""A matrix laid out: which cases, what travels, and a project's own limits on a box that has no project."""

from pathlib import Path

import pytest

from parity.fleet.row import Row
from parity.matrix.brought import bring_case, bring_project
from parity.matrix.plan import cases_of, plan_matrix
from parity.runs.places import case_folders, data_roots
from parity.runs.store import Store
from runners.case import case_document, case_text
from runners.errors import CaseError, ConfigError, ParityError, RunError

TEXT = """
name = "m"
weights = "forge:tiny:0"
cases = {cases}
[[devices]]
name = "one"
[[devices]]
name = "two"
[[runners]]
runner = "native"
[[runners]]
runner = "sglang"
python = "$NO_SUCH_ENGINE"
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def planned(folder: Path, store: Store, cases: str = '["tiny_ti2v", "tiny_t*"]') -> tuple[Row, ...]:
    (folder / "m.toml").write_text(TEXT.format(cases=cases))
    return plan_matrix(folder / "m.toml", store).rows


def test_every_case_is_a_row_on_every_device(tmp_path: Path, store: Store) -> None:
    found = planned(tmp_path, store)
    tiny = sorted(folder.name for folder in case_folders() if folder.name.startswith("tiny_t"))
    ids = ["tiny_ti2v", *(name for name in tiny if name != "tiny_ti2v")]
    assert [row.place for row in found] == [f"{name}@{device}" for name in ids for device in ("one", "two")]
    assert [one.label for one in found[0].engines] == ["native"]
    assert found[0].project is None and len({row.key for row in found}) == len(found)


def test_a_case_travels_with_its_pictures(tmp_path: Path, store: Store) -> None:
    [case] = cases_of(["tiny_ti2v"], tmp_path)
    row = planned(tmp_path, store, '["tiny_ti2v"]')[0]
    place = tmp_path / "box"
    place.mkdir()
    there = bring_case(row, store, place)
    assert case_document(there) == case_document(case) and there.folder == str(place / "case")
    [image] = there.request.images
    assert there.image_path(image).read_bytes() == case.image_path(case.request.images[0]).read_bytes()


@pytest.mark.parametrize("cases", ['["nothing*"]', '["cases/*.toml"]', '["../x"]'])
def test_a_pattern_that_fits_no_case_is_told(cases: str, tmp_path: Path, store: Store) -> None:
    with pytest.raises(CaseError, match=r"No case fits .* there are: .*tiny_ti2v"):
        planned(tmp_path, store, cases)


def test_two_cases_of_one_id_are_refused(tmp_path: Path, micro_case_text: str) -> None:
    (tmp_path / "a.toml").write_text(micro_case_text)
    (tmp_path / "b.toml").write_text(micro_case_text)
    assert [case.id for case in cases_of(["*.toml"], tmp_path)] == ["micro"], "the same one twice is one"
    (tmp_path / "b.toml").write_text(micro_case_text.replace("seed = 10", "seed = 11"))
    with pytest.raises(CaseError, match="Two cases of the matrix are called 'micro'"):
        cases_of(["*.toml"], tmp_path)


def test_a_matrix_without_an_engine_that_is_here_is_refused(tmp_path: Path, store: Store) -> None:
    text = TEXT.format(cases='["tiny_ti2v"]').replace('[[runners]]\nrunner = "native"\n', "")
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(ConfigError, match="none of its runners has an interpreter here"):
        plan_matrix(tmp_path / "m.toml", store)


def test_weights_that_are_no_folder_are_refused(tmp_path: Path, store: Store) -> None:
    (tmp_path / "m.toml").write_text(TEXT.format(cases='["tiny_ti2v"]').replace("forge:tiny:0", "nowhere"))
    with pytest.raises(ParityError, match="No weights folder"):
        plan_matrix(tmp_path / "m.toml", store)


def test_a_box_judges_by_the_limits_of_the_drivers_project(
    checkout: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "thresholds" / "consistency_threshold.json").write_text('{"mine": 1}')
    row = planned(tmp_path, store, '["micro"]')[0]
    assert row.project is not None
    box = tmp_path / "box"
    box.mkdir()
    bring_project(row, store, box)
    monkeypatch.delenv("PARITY_ROOT")  # of the driver alone
    monkeypatch.chdir(box)
    root = data_roots()[0]
    assert root == box / "parity"
    assert (root / "thresholds" / "consistency_threshold.json").read_text() == '{"mine": 1}'
    assert (root / "golden" / "micro" / "case.toml").is_file()


def test_a_list_of_files_that_leads_elsewhere_is_refused(
    checkout: Path, tmp_path: Path, store: Store, micro_case_text: str
) -> None:
    import msgspec

    from runners.files import HeldFile

    row = planned(tmp_path, store, '["micro"]')[0]
    entry = store.put(HeldFile(checkout / "golden" / "micro" / "case.toml"))
    listing = tmp_path / "list.json"
    listing.write_bytes(msgspec.json.encode({"../evil": entry}))
    row = msgspec.structs.replace(row, project=store.put(HeldFile(listing)))
    (tmp_path / "box").mkdir()
    with pytest.raises(RunError, match="would lie outside of its folder"):
        bring_project(row, store, tmp_path / "box")
    assert not (tmp_path / "evil").exists()


def test_a_case_is_text_that_a_file_may_have(micro_case_text: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(micro_case_text)
    [case] = cases_of(["a.toml"], tmp_path)
    assert 'id = "micro"' in case_text(case)


def test_a_runner_is_asked_for_its_own_cases_alone(tmp_path: Path, store: Store) -> None:
    text = TEXT.format(cases='["tiny_ti2v", "tiny_two_stage"]') + '[[runners]]\nrunner = "native:fast"\ncases = {}\n'
    (tmp_path / "m.toml").write_text(text.format('["*_ti2v", "tiny_x*"]'))
    labels = {row.place: [one.label for one in row.engines] for row in plan_matrix(tmp_path / "m.toml", store).rows}
    assert labels["tiny_ti2v@one"] == ["native", "native:fast"] and labels["tiny_two_stage@two"] == ["native"]
    (tmp_path / "m.toml").write_text(text.format('["tiny_tiv2"]'))
    with pytest.raises(
        ConfigError, match=r"'native:fast' is asked for tiny_tiv2, which no case of the matrix fits: tiny"
    ):
        plan_matrix(tmp_path / "m.toml", store)
    (tmp_path / "m.toml").write_text(text.format('["*"]').replace('"native"', '"native"\ncases = ["tiny_ti2v"]', 1))
    assert [len(row.engines) for row in plan_matrix(tmp_path / "m.toml", store).rows] == [2, 2, 1, 1]
    only = text.format('["tiny_ti2v"]').replace('"native"', '"native"\ncases = ["tiny_ti2v"]', 1)
    (tmp_path / "m.toml").write_text(only)
    with pytest.raises(
        ConfigError, match="No runner of the matrix that is here is asked for the case 'tiny_two_stage'"
    ):
        plan_matrix(tmp_path / "m.toml", store)
