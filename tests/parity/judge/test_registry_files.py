"""The registry as files: what is reviewed, the samples beside it, older files, killed writers and hand-made names."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.diff.metric import METRICS
from parity.judge import limit_table
from parity.judge import registry as registry_module
from parity.judge.document import document_text
from parity.judge.limit import Calibration, Limit, derive_limit, exact_limit
from parity.judge.limit_table import TableKey, spread
from parity.judge.registry import Registry, Waiver, load_registry, save_registry
from parity.runs.places import project_root
from runners.errors import RegistryError

VERSION_1 = Path(__file__).parent / "registry_version_1.json"
ERROR, LEVEL, COUNT = "video_latent.relative_l2", "frames.psnr_db.min", "frames.count.difference"
HERE, THERE = TableKey("tiny"), TableKey("tiny", "NVIDIA H100 80GB HBM3")


def calibration(torch: str) -> Calibration:
    return Calibration(
        date="2026-11-23", command="x", runs=("y",), environment={"torch": torch}, expires_with=("torch",)
    )


def limit(metric: str, floor: float, defect: float, calibration: str = "here") -> Limit:
    floors, defects = {"threads": [floor] * 2}, {"gelu": [defect]}
    return derive_limit(METRICS[metric], floor=floors, defects=defects, calibration=calibration)


def registry(floor: float = 0.01) -> Registry:
    here = {ERROR: limit(ERROR, floor, 1.0), LEVEL: limit(LEVEL, 40.0, 20.0), COUNT: exact_limit(METRICS[COUNT])}
    return Registry(
        calibrations={"here": calibration("2.13.0"), "there": calibration("2.11.0")},
        cases={THERE: {ERROR: limit(ERROR, 0.02, 1.0, "there")}, HERE: here},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "consistency_threshold.json"
    save_registry(path, registry())
    return path


def samples_of(path: Path, key: TableKey = HERE) -> Path:
    [table] = [one for one in tables(path) if (one["case"], one.get("device", "")) == (key.case, key.device)]
    return path.parent / "samples" / table["samples"]


def tables(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["tables"]
    return found


def renamed(path: Path, old: Path, data: bytes) -> Path:
    """Put other samples in the place of old ones, under a name that fits them."""
    name = f"tiny-{hashlib.sha256(data).hexdigest()}.json"
    (old.parent / name).write_bytes(data)
    path.write_text(path.read_text().replace(old.name, name))
    return old.parent / name


def test_a_limit_is_a_line_in_the_order_of_the_metrics_and_cases_in_that_of_their_keys(path: Path) -> None:
    assert [(one["case"], one.get("device")) for one in tables(path)] == [("tiny", None), ("tiny", THERE.device)]
    lines = [line.strip() for line in path.read_text().splitlines() if '"status"' in line]
    assert lines[:3] == [
        '"frames.psnr_db.min": {"value": 30.0, "unit": "dB", "direction": "higher", "status": "calibrated", "floor": '
        '[40.0, "threads"], "weakest_defect": [20.0, "gelu"], "separation": 10.0},',
        '"frames.count.difference": {"value": 0.0, "unit": "frames", "direction": "exact", "status": "exact", '
        '"reason": "candidate\'s frames minus reference\'s"},',
        '"video_latent.relative_l2": {"value": 0.1, "direction": "lower", "status": "calibrated", "floor": '
        '[0.01, "threads"], "weakest_defect": [1.0, "gelu"], "separation": 100.0}',
    ]
    assert len(lines) == 4 and "samples" not in "".join(lines)
    assert samples_of(path, THERE).name.startswith("tiny@NVIDIA_H100_80GB_HBM3-")


def test_a_reason_that_the_samples_say_is_left_out_and_any_other_kept(path: Path) -> None:
    assert load_registry(path).cases[HERE][ERROR].reason == "floor 0.01 (threads), weakest defect 1 (gelu), 100x apart"
    own = registry()
    kept = msgspec.structs.replace(own.cases[HERE][ERROR], reason="loosened: a person said why")
    save_registry(path, msgspec.structs.replace(own, cases={**own.cases, HERE: {**own.cases[HERE], ERROR: kept}}))
    assert '"separation": 100.0, "reason": "loosened: a person said why"}' in path.read_text()
    assert load_registry(path).cases[HERE][ERROR] == kept
    both = msgspec.structs.replace(kept, reason=f"loosened: other noise ({own.cases[HERE][ERROR].reason})")
    save_registry(path, msgspec.structs.replace(own, cases={**own.cases, HERE: {**own.cases[HERE], ERROR: both}}))
    assert '"separation": 100.0, "reason": "loosened: other noise (...)"}' in path.read_text()
    assert load_registry(path).cases[HERE][ERROR] == both


def test_an_exact_limit_without_a_reason_is_refused(path: Path) -> None:
    text = path.read_text().replace(""", "reason": "candidate's frames minus reference's\"""", "")
    path.write_text(text)
    with pytest.raises(RegistryError, match="needs a reason"):
        load_registry(path)


def test_a_changed_limit_is_a_changed_line_and_its_table_names_other_samples(path: Path) -> None:
    before, others = path.read_text().splitlines(), samples_of(path, THERE)
    save_registry(path, registry(0.04))
    after = path.read_text().splitlines()
    assert len(before) == len(after)
    changed = [
        new.strip().partition('"')[2].partition('"')[0] for old, new in zip(before, after, strict=True) if old != new
    ]
    assert changed == ["samples", ERROR]
    assert load_registry(path) == registry(0.04) and sorted(path.parent.glob("samples/*")) == sorted(
        {samples_of(path), others}
    )


def test_floats_and_infinities_read_back_as_they_were() -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 41.96591000617204]
    text = spread({"a": values, "b": [float("inf")]}, 1).decode()
    assert [str(value) for value in json.loads(text)["a"]] == [str(value) for value in values]
    assert text.splitlines()[2] == '  "b": ["inf"]'


def test_an_older_file_is_read_as_it_is_and_rewritten_by_todays_method_by_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "golden").mkdir()
    path = tmp_path / "thresholds" / "consistency_threshold.json"
    path.parent.mkdir()
    path.write_bytes(VERSION_1.read_bytes())
    old = load_registry(path)
    document = json.loads(VERSION_1.read_text())
    there = TableKey("ltx_2.3_one_stage_ti2v_25f", "NVIDIA H100 80GB HBM3")
    assert list(old.cases) == [TableKey("tiny_text_only"), there]
    for key, where in zip(old.cases, document["cases"], strict=True):
        for metric, written in document["cases"][where].items():
            read = old.cases[key][metric]
            said = {"CALIBRATION_NEEDED": "OVERLAP"}.get(written["status"], written["status"])
            assert (read.value, read.floor, read.weakest_defect) == (
                *(written["value"], written["floor"], written["weakest_defect"]),
            )
            assert (read.status, read.reason, read.calibration) == (said, written["reason"], written["calibration"])
            if written["samples"]:
                assert read.samples is not None
                floor = {name: tuple(map(float, values)) for name, values in written["samples"]["floor"].items()}
                assert read.samples.floor == floor
    assert {limit.status for limits in old.tables().values() for limit in limits.values()} == {
        *("calibrated", "OVERLAP", "exact")
    }
    assert old.waivers == (Waiver(case="tiny_text_only", metric=LEVEL, reason="a test of the old form"),)
    assert old.unjudged == document["unjudged"] and list(old.defaults) == ["audio.channels.difference"]
    assert {key: one.date for key, one in old.calibrations.items()} == {
        key: one["date"] for key, one in document["calibrations"].items()
    }
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    result = CliRunner().invoke(app, ["calibrate", "--from-samples", "--reason", "today's method"])
    assert result.exit_code == 0, result.output
    assert json.loads(path.read_text())["schema_version"] == 3
    new = load_registry(path)
    new.verify()  # the method is today's, the samples are those of then
    kept = ("defaults", "calibrations", "unjudged", "waivers")
    assert [getattr(new, name) for name in kept] == [getattr(old, name) for name in kept]
    samples = [
        {key: {metric: limit.samples for metric, limit in limits.items()} for key, limits in registry.cases.items()}
        for registry in (old, new)
    ]
    assert samples[0] == samples[1]


@pytest.mark.parametrize("version", [0, 4, "2", None])
def test_another_version_is_refused(path: Path, version: object) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema_version": version}))
    with pytest.raises(RegistryError, match="schema_version"):
        load_registry(path)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../tiny-{}.json",
        "a/tiny-{}.json",
        ".tiny-{}.json",
        "tiny-{}.json/",
        "tiny-{}.json\n",
        "tiny.json",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(path: Path, name: str) -> None:
    document = json.loads(path.read_text())
    true = samples_of(path)
    (path.parent / true.name).write_bytes(true.read_bytes())  # what ../ would lead to
    document["tables"][0]["samples"] = name.format(true.stem[-64:])
    path.write_text(json.dumps(document))
    with pytest.raises(RegistryError, match="does not name a file of samples"):
        load_registry(path)


def test_samples_that_are_missing_edited_or_too_large_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = samples_of(path)
    true = samples.read_bytes()
    samples.write_bytes(true.replace(b"0.01", b"0.02"))
    with pytest.raises(RegistryError, match=r"samples/tiny-.*not that of its name"):
        load_registry(path)
    samples.unlink()
    with pytest.raises(RegistryError, match=r"name the samples tiny-.* not in .*samples\. Restore"):
        load_registry(path)
    samples.write_bytes(true)
    monkeypatch.setattr(limit_table, "MAX_SAMPLES_BYTES", len(true) - 1)
    with pytest.raises(RegistryError, match=f"more than {len(true) - 1} bytes"):
        load_registry(path)
    with pytest.raises(RegistryError, match=f"tiny: the samples take {len(true)} bytes"):
        save_registry(path, registry())
    monkeypatch.undo()
    assert load_registry(path) == registry()


def test_samples_of_another_table_or_metric_are_refused(path: Path) -> None:
    whole, samples = path.read_text(), samples_of(path)
    path.write_text(whole.replace(samples.name, samples_of(path, THERE).name))
    with pytest.raises(RegistryError, match=r"limits of tiny name .*samples of tiny on NVIDIA H100"):
        load_registry(path)
    document = json.loads(samples.read_text())
    document["samples"][COUNT] = document["samples"][ERROR]
    document["samples"]["drift.text"] = document["samples"].pop(ERROR)
    path.write_text(whole)
    renamed(path, samples, json.dumps(document).encode())
    with pytest.raises(RegistryError, match=r"samples of drift\.text, which has no limit"):
        load_registry(path)
    del document["samples"]["drift.text"]
    path.write_text(whole)
    renamed(path, samples, json.dumps(document).encode())
    with pytest.raises(RegistryError, match="needs floor, samples and calibration"):
        load_registry(path)


def test_one_calibration_may_not_say_two_things_nor_a_table_stand_twice(path: Path) -> None:
    whole, samples = path.read_text(), samples_of(path)
    document = json.loads(samples.read_text())
    document["calibrations"]["there"] = document["calibrations"]["here"]
    renamed(path, samples, json.dumps(document).encode())
    with pytest.raises(RegistryError, match=r"calibration 'there' of tiny on .* is another one elsewhere"):
        load_registry(path)
    both = json.loads(whole)
    both["tables"].append(both["tables"][0])
    path.write_text(json.dumps(both))
    with pytest.raises(RegistryError, match="limits of tiny stand here twice"):
        load_registry(path)


@pytest.mark.parametrize("killed_at", ["write_samples", "write_bytes_atomic", "remove_samples"])
def test_a_killed_writer_leaves_the_old_registry_or_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    def killed(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry_module, killed_at, killed)
    with pytest.raises(KeyboardInterrupt):
        save_registry(path, registry(0.04))
    monkeypatch.undo()
    assert load_registry(path) == registry(0.04 if killed_at == "remove_samples" else 0.01)
    save_registry(path, registry(0.09))
    assert load_registry(path) == registry(0.09)
    assert set(path.parent.glob("samples/*")) == {samples_of(path), samples_of(path, THERE)}


def test_a_reader_that_a_writer_overtakes_reads_the_new_registry(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true, old = document_text, [path.read_text()]
    save_registry(path, registry(0.04))
    monkeypatch.setattr(registry_module, "document_text", lambda *given: old.pop() if old else true(*given))
    assert load_registry(path) == registry(0.04) and not old


def test_nothing_else_in_the_folder_is_removed(path: Path) -> None:
    for name in ("README.md", "notes.json", f"tiny-{'0' * 64}.json.bak"):
        (path.parent / "samples" / name).write_text("mine")
    (path.parent / "samples" / f"old-{'0' * 64}.json").write_text("{}")
    save_registry(path, registry())
    left = {one.name for one in path.parent.glob("samples/*")}
    assert left - {samples_of(path).name, samples_of(path, THERE).name} == {
        *("README.md", "notes.json", f"tiny-{'0' * 64}.json.bak")
    }


def test_a_limit_with_half_its_origin_or_a_case_that_names_no_file_is_not_written(tmp_path: Path) -> None:
    path, true = tmp_path / "consistency_threshold.json", registry()
    half = msgspec.structs.replace(exact_limit(METRICS[COUNT]), calibration="here")
    for key, limits, said in (
        (HERE, {**true.cases[HERE], COUNT: half}, "both, or neither"),
        (TableKey("../x"), true.cases[HERE], r"No file can be named after '\.\./x'"),
    ):
        with pytest.raises(RegistryError, match=said):
            save_registry(path, msgspec.structs.replace(true, cases={THERE: true.cases[THERE], key: limits}))
        assert not path.exists()


def test_the_committed_registry_is_small_in_its_one_form_and_names_every_file_beside_it(tmp_path: Path) -> None:
    path = project_root() / "thresholds" / "consistency_threshold.json"
    assert path.stat().st_size < 1 << 20
    save_registry(tmp_path / path.name, load_registry(path))  # which verifies it
    for folder in (".", "samples"):
        names = [
            {one.name for one in (root / folder).glob("*.json")} - {"perf_baselines.json"}
            for root in (path.parent, tmp_path)
        ]
        assert names[0] == names[1]
        for name in names[0]:
            assert (path.parent / folder / name).read_bytes() == (tmp_path / folder / name).read_bytes()
