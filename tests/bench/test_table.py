"""The tables of measurements say what the files say: medians over runs, the worst peak, the device."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import rows, table

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"device_name": "NVIDIA H100 80GB HBM3", "driver": "580.1", "torch": "2.11.0"}
DEVICE = "NVIDIA H100 80GB HBM3, driver 580.1, torch 2.11.0"


def timed(runner: str, end_to_end_s: float, peak_bytes: int) -> dict[str, Any]:
    times = {
        "end_to_end_s": end_to_end_s,
        "stage_s": {"load": 7.0, "denoising": end_to_end_s - 10},
        "step_s": [9.0, 1.5, 2.5],
        "peak_bytes": peak_bytes,
    }
    return {"case": "c", "runner": runner, "tier": "exact", "work": {"trace": "no taps"}, "times": times}


def test_medians_of_each_runner_stand_beside_the_worst_peak() -> None:
    runs = [timed("official", 60.0, 1 << 30), timed("native", 50.0, 1 << 30), timed("official", 64.0, 3 << 30)]
    document = {"runs": runs, "environment": ENVIRONMENT, "code_version": "aa"}
    assert rows.speed_rows(document, {"c": {"aa"}}) == [
        ("c", "official", "exact", "no taps", "2", "62.00", "7.00", "52.00", "2.000", "3.0", "newest", DEVICE),
        ("c", "native", "exact", "no taps", "1", "50.00", "7.00", "40.00", "2.000", "1.0", "newest", DEVICE),
    ]
    assert [row[-2] for row in rows.speed_rows(document, {"c": {"bb"}})] == ["older", "older"]


def test_code_is_newest_by_the_date_of_a_cases_last_samples() -> None:
    def samples(date: str, code: str, *cases: str) -> dict[str, Any]:
        return {"date": date, "code_version": code, "runs": [{"case": case} for case in cases]}

    documents = [samples("2026-11-23", "a", "c", "d"), samples("2026-11-30", "b", "c"), samples("2026-11-30", "e", "c")]
    assert rows.newest_code(documents) == {"c": {"b", "e"}, "d": {"a"}}
    assert rows.newest_code(documents[::-1]) == {"c": {"b", "e"}, "d": {"a"}}


def test_a_run_on_two_devices_is_not_one_of_one() -> None:
    one, two = timed("native", 40.0, 1 << 30), timed("native", 25.0, 1 << 30)
    two = {**two, "work": two["work"] | {"second_device": "cuda:1"}}
    document = {"code_version": "aa", "environment": {"device": "cpu"}, "runs": [one, two]}
    assert [(row[2], row[5]) for row in rows.speed_rows(document, {"c": {"aa"}})] == [
        ("exact", "40.00"),
        ("exact, two devices", "25.00"),
    ]
    assert [rows.runner_of(run) for run in (one, two)] == ["native", "native+cuda:1"]


def test_tiers_are_runners_of_their_own_in_a_line_of_speed() -> None:
    runs = [timed("official", 60.0, 1 << 30), timed("native", 50.0, 1 << 30), timed("native", 40.0, 1 << 30)]
    runs[2] |= {"tier": "fast"}
    runs = [{**run, "case": table.FULL_SIZE_CASE} for run in runs]
    older = {"date": "2026-11-01", "code_version": "a", "runs": runs[:1], "environment": {"device_name": "NVIDIA H100"}}
    newer = {"date": "2026-11-02", "code_version": "b", "runs": runs, "environment": {"device_name": "NVIDIA H200"}}
    assert rows.speed_lines([older, newer], table.FULL_SIZE_CASE) == [
        (
            f"seconds a step (end to end), by turns, {table.FULL_SIZE_CASE}, NVIDIA H200",
            "official 2.000 (60.0, 1 runs); native 2.000 (50.0, 1 runs); native:fast 2.000 (40.0, 1 runs)",
        )
    ]


def test_files_of_every_kind_become_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture: dict[str, Any] = {
        "kind": "capture",
        "case": "c",
        "median_step_s": {"without": 1.774, "with": 1.803},
        "cost_percent": 1.6347,
        "trace_peak_bytes": 5 << 20,
    }
    rates = {"read_sum": 2.9e12, "read_amax": 2.0e12, "copy": 2.96e12, "sketch": 2.5e12, "sketch_torch": 0.1e12}
    sketch: dict[str, Any] = {"kind": "sketch", "bytes": 50_000_000, "bytes_per_s": rates, "share_of_read": 0.862}
    taps = {"compared": 55092, "bit_equal": True}
    line = {"case": "c", "what": "native against official", "taps": taps, "outcome": "PARITY"}
    other = ["device_name: A against B", "driver: 1 against 2"]
    suite: dict[str, Any] = {
        "lines": [
            {**line, "environment_differences": [], "isolated": {"places": 7654, "differing": 3}},
            {**line, "environment_differences": other, "outcome": "COULD NOT JUDGE"},
        ]
    }
    points = {
        "video/ff": {"0": {"0": 0.001, "1": 0.0061}, "15": {"0": 0.002, "1": 0.003}},
        "audio/ff": {"0": {"0": 0.004}},
    }
    blocks: dict[str, Any] = {
        "kind": "floors_blocks",
        "case": {"id": "c"},
        "measured_steps": [0, 15],
        "places": 500,
        "places_that_differ": 2,
        "official_to_oracle": points,
        "native_to_oracle": {"video/ff": {"0": {"0": 0.007}}},
        "another_attention_kernel": {"video/ff": {"0": {"0": 0.0029}}},
        "peak_bytes": 3 << 29,
    }
    free: dict[str, Any] = {
        "kind": "floors_run",
        "case": {"id": "c"},
        "official_to_oracle": points,
        "native_to_oracle": {"video/ff": {"0": {"0": 0.007}}},
        "nearer": {"candidate": 3, "official": 4, "neither": 5},
        "peak_bytes": {"oracle": 5 << 30, "native": 1 << 30},
    }
    port: dict[str, Any] = {
        "kind": "floors_port",
        "case": {"id": "c"},
        "runner": "diffusers",
        "roots": [{"tap": "image/0/latent", "relative_l2": 0.62, "harmless": 0.055}, {"tap": "init/audio"}],
        "ends": {"video latent": 1.1, "frames": 0.3, "waveform": "inf"},
        "times_s": {"official": 43.26, "diffusers": 70.0},
        "peak_bytes": {"official": 1 << 30, "diffusers": 7 << 29},
    }
    setting = {
        "official_repeats": 0.000977,
        "native_repeats": 0.0,
        "between": 0.00195,
        "official_to_float64": 0.00174,
        "native_to_float64": 0.0017394,
        "kernels_of_both": {"void cudnn::detail::dgrad_engine<float>(int)": 4, "cudaLaunchKernel": 9},
    }
    vocoder = {"kind": "vocoder", "case": "c", "settings": {"as it comes": setting}}
    paths = []
    for index, document in enumerate((capture, sketch, suite, blocks, free, port, vocoder)):
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_text(json.dumps({**document, "environment": ENVIRONMENT}))
    table.main([str(path) for path in paths])
    text = capsys.readouterr().out
    assert f"| c | 1.7740 | 1.8030 | +1.63 % | 5 MiB | {DEVICE} |" in text
    assert f"| 50 MB bf16 | 2960 | 2900 | 2500 | 86 % | 100 | {DEVICE} |" in text
    said = "| c | native against official | 55092 bit-identical"
    assert f"{said} | 7654, 3 differ | - | PARITY | {DEVICE} |" in text
    assert f"{said} | - | device_name: A against B; driver: 1 against 2 | COULD NOT JUDGE | {DEVICE} |" in text
    assert f"| c | 0, 15 | 500 | 2 | 0.0061 | 0.007 | 0.0029 | 1.5 | {DEVICE} |" in text
    assert f"| c | 0.0061 | 0.007 | 3 / 4 / 5 | 5.0 | {DEVICE} |" in text
    ends = "1.1 | - | 0.3 | inf"
    assert f"| c | diffusers | image/0/latent | 0.62 / 0.055 | {ends} | 70.0 / 43.3 | 3.5 | {DEVICE} |" in text
    assert f"| c | as it comes | 0.00098 | 0 | 0.0019 | 0.001740 | 0.001739 | 4 | {DEVICE} |" in text
    assert "Speed" not in text


def test_loading_is_split_into_parts_and_held_to_a_plain_fill() -> None:
    parts = {
        "text_encoder": {"bytes": 24e9, "load_s": 2.0, "tensors_s": 1.5},
        "transformer": {"bytes": 36e9, "load_s": 3.25, "tensors_s": 3.0},
    }
    document = {
        "parts": parts,
        "check_s": 0.625,
        "prepare_s": 7.0,
        "fill_bytes_per_s": 2e12,
        "environment": ENVIRONMENT,
    }
    assert rows.loading_rows(document) == [
        ("names and tokenizer, prepared once", "-", "7.00", "-", "-", DEVICE),
        ("structures, made and checked", "-", "0.62", "-", "-", DEVICE),
        ("text_encoder", "24.00", "2.00", "1.50", "0.012", DEVICE),
        ("transformer", "36.00", "3.25", "3.00", "0.018", DEVICE),
        ("all parts", "60.00", "5.25", "4.50", "0.030", DEVICE),
    ]


def test_a_planted_defect_has_a_table_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says = ["first departs at step 0, block 5: relative L2 0.0091, 0.88x harmless noise", "look at ff"]
    line = {
        "case": "c",
        "what": "native against official",
        "outcome": "NOT AT PARITY",
        "environment_differences": [],
        "taps": {"compared": 55092, "bit_equal": False, "lines": says},
        "isolated": {"places": 5746, "differing": 24, "origins": ["denoise/000/cond/block/05/video/ff", "other"]},
        "verdict": {"rows": [{"metric": "x", "value": 1.0}, {"metric": "taps.bit_different", "value": 54321.0}]},
    }
    path = tmp_path / "h100_planted_defect.json"
    path.write_text(json.dumps({"lines": [line], "environment": ENVIRONMENT}))
    table.main([str(path)])
    text = capsys.readouterr().out
    found = "first departs at step 0, block 5 | 54321 of 55092 | 24 of 5746 | denoise/000/cond/block/05/video/ff"
    assert f"| c | {found} | NOT AT PARITY | {DEVICE} |" in text
    assert "Parity at full size" not in text


@pytest.fixture(scope="module")
def kinds() -> Any:
    return table.read(sorted((ROOT / "docs/measurements").glob("*.json")))


def test_defects_in_a_faster_tier_are_none_of_those_that_the_gate_catches_in_the_exact_one(kinds: Any) -> None:
    assert kinds[table.MUTATION_OF_TIER] and not any("tier" in one for one in kinds["mutation"])
    text = table.tiers_table({table.MUTATION_OF_TIER: kinds[table.MUTATION_OF_TIER]})
    assert "**Known defects put into a faster tier, tiny_ti2v, NVIDIA H200" in text and "| fast | 75 of 80 |" in text
    assert "| fast | 105 of 105 | 104 of 105 | 104 | none | 5 |" in text


def test_the_page_of_measurements_is_what_the_files_say(kinds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/measurements.md").read_text(encoding="utf-8")
    _, _, shown = page.partition("<!-- measured: all -->\n")
    table.main([str(path) for path in sorted((ROOT / "docs/measurements").glob("*.json"))])
    assert shown == capsys.readouterr().out + "<!-- end -->\n", "run `make measurements`"


def test_the_readme_shows_four_of_the_tables(kinds: Any) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [found["name"] for found in table.BLOCK.finditer(readme)] == ["pipelines", "engines", "caught", "ladder"]
    assert table.filled(readme, table.blocks_of(kinds)) == readme, "run `make measurements`"
    blocks = {"engines": ["engines", "engines of pipelines"], "full-size": ["full size"]}
    for name, shown_there in (blocks | {"defects": ["caught on their own cases"]}).items():
        document = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
        assert [found["name"] for found in table.BLOCK.finditer(document)] == shown_there
        assert table.filled(document, table.blocks_of(kinds)) == document, "run `make measurements`"
    shown = [line for line in table.full_size_table(kinds).splitlines() if line.startswith("| ")]
    assert len(shown) == 2 + 4 + 2 and table.FULL_SIZE_ON in table.full_size_table(kinds)


def test_an_engines_row_says_its_release_its_equal_taps_and_where_it_first_departs() -> None:
    row = {
        "candidate": ["Engine 1.2", "quality fast"],
        "identified": "as 1.1.2, but its filter was computed in bf16 (certain: with it all 668 taps are equal)",
        "taps": 668,
        "taps_equal": 667,
        "first_bits_tap": "decode/waveform",
        "first_bits_relative_l2": "0.01278",
        "departs": ["image/0/latent", "init/audio"],
        "causes": ["the vocoder", "the noise"],
        "outcome": "not_at_parity",
    }
    whole = {
        **row,
        "candidate": ["native"],
        "identified": "as 1.1.2",
        "taps_equal": 668,
        "first_bits_tap": None,
        "departs": [],
        "causes": [],
        "outcome": "parity",
    }
    assert rows.engine_row(row) == (
        *(
            "Engine 1.2",
            "as 1.1.2, but its filter was computed in bf16 (certain)",
            "667 of 668",
            "`decode/waveform`, 0.013; beyond noise at `image/0/latent`, `init/audio`",
            "the vocoder; the noise",
            "NOT AT PARITY",
        ),
    )
    assert rows.engine_row(whole) == ("native", "as 1.1.2", "668 of 668", "none", "-", "PARITY")
    environment = {"cpu": "AMD EPYC", "threads": "1", "torch": "2.13.0"}
    shown = table.engines_table({"engines": [{"rows": [row, whole], "environment": environment}]})
    assert "tiny model, AMD EPYC, 1 thread, torch 2.13.0**" in shown and shown.count("\n| ") == 4


def test_a_document_gets_its_tables_between_its_markers_and_an_unknown_marker_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "head\n<!-- measured: caught -->\nold\n<!-- end -->\nbetween\n<!-- measured: all -->\n<!-- end -->\nfoot\n"
    filled = table.filled(text, {"caught": "one\ntwo\n", "all": "three\n"})
    assert filled == (
        "head\n<!-- measured: caught -->\none\ntwo\n<!-- end -->\nbetween\n"
        "<!-- measured: all -->\nthree\n<!-- end -->\nfoot\n"
    )
    assert table.filled(filled, {"caught": "", "all": ""}) == text.replace("old\n", "")
    with pytest.raises(KeyError, match="everything"):
        table.filled("<!-- measured: everything -->\n<!-- end -->", {"all": ""})
    rates = {"read_sum": 2.0e12, "read_amax": 1.0e12, "copy": 3.0e12, "sketch": 1.0e12, "sketch_torch": 0.1e12}
    sketch = {"kind": "sketch", "bytes": 10**6, "bytes_per_s": rates, "share_of_read": 0.5, "environment": ENVIRONMENT}
    (tmp_path / "s.json").write_text(json.dumps(sketch))
    (tmp_path / "page.md").write_text(text)
    table.main([str(tmp_path / "s.json"), "--into", str(tmp_path / "page.md")])
    assert table.filled(text, {"caught": "", "all": capsys.readouterr().out}) == (tmp_path / "page.md").read_text()


def test_rows_at_full_size_are_of_one_device_and_count_cases_taps_and_places() -> None:
    def line(case: str, compared: int, bit_equal: bool, what: str = "native against official") -> dict[str, Any]:
        return {"case": case, "what": what, "taps": {"compared": compared, "bit_equal": bit_equal}}

    lines = [
        line("c", 700, True),
        {**line("c_no_v2a", 30, False), "isolated": {"places": 90, "differing": 2}},
        line("c", 5, True, "native against golden"),
        line("release_1.2.0_c", 11, True),
    ]
    elsewhere = {"lines": [line("c", 100000, True)], "environment": {**ENVIRONMENT, "device_name": "NVIDIA H200"}}
    planted = {"outcome": "NOT AT PARITY", "taps": {"roots": [{"where": "step 0, block 5"}, {"where": "later"}]}}
    runs = [{**timed("native", 61.0, 3 << 30), "case": table.FULL_SIZE_CASE}, timed("native", 1.0, 1 << 30)]
    kinds = {
        "suite": [{"lines": lines, "environment": ENVIRONMENT}, elsewhere],
        table.PLANTED: [{"lines": [planted], "environment": ENVIRONMENT}],
        "samples": [{"date": "2026-11-23", "code_version": "a", "runs": runs, "environment": ENVIRONMENT}],
    }
    assert [row[1] for row in table.full_size_rows(kinds)] == [
        "1 of 2 cases bit-identical, 730 taps",
        "1 of 1 cases bit-identical, 11 taps",
        "2 of 90 places differ",
        "NOT AT PARITY, first diverges at step 0, block 5",
        "native 2.000 (61.0, 1 runs)",
    ]
    assert f"**Full size on one {DEVICE}**" in table.full_size_table(kinds)


def test_two_runs_of_another_release_show_what_is_equal_and_what_drifts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "case": "c",
        "reference": {"runner": "official", "reference": "1.2.0"},
        "candidate": {"runner": "native", "reference": "1.2.0"},
        "environment": ["transformers: 5 against 4"],
        "environment_of_candidate": ENVIRONMENT,
        "metrics": {
            "outputs.bit_equal.frames": 1.0,
            "outputs.bit_equal.audio": 0.0,
            "drift.text": 0.0,
            "drift.image": "nan",
            "drift.decode.waveform": 0.00129,
        },
    }
    path = tmp_path / "d.json"
    path.write_text(json.dumps(document))
    table.main([str(path)])
    apart = "image by nan, decode.waveform by 0.0013"
    assert f"| c | official 1.2.0 | native 1.2.0 | frames | 3 | {apart} | {DEVICE} |" in capsys.readouterr().out


def test_a_mutation_score_says_what_each_level_and_family_catches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"findings": [], "equivalent": False}
    document = {
        "kind": "mutation",
        "limits_of": "c",
        "date": "2026-01-02",
        "environment": {"cpu": "Xeon", "threads": "1", "torch": "2.13.0"},
        "defects": 4,
        "killed": 4,
        "located": 3,
        "benign_runs": 7,
        "equivalents": ["x"],
        "kills_by_level": {"bits": 4},
        "killed_by_levels": {"outputs": 1, "outputs+drift": 3},
        "false_alarms_by_levels": {"outputs": 0, "outputs+drift": 1},
        "benign_rows": [{"metrics": ["drift.block.video.ff.first_step"]}, {"metrics": ["frames.mad.max"]}],
        "rows": [
            {**row, "id": "a", "metrics": ["frames.mad.max", "frames.ssim.min", "drift.block.video.ff.first_step"]},
            {**row, "id": "b", "metrics": ["drift.block.audio.ff.first_step"], "findings": ["missing_tensor"]},
            {**row, "id": "x", "metrics": ["frames.mad.max"], "equivalent": True},
        ],
    }
    path = tmp_path / "m.json"
    path.write_text(json.dumps(document))
    table.main([str(path)])
    text = capsys.readouterr().out
    assert "| equal bits (the exact tier) | 4 of 4 | 100 % | - |" in text
    assert "| outputs and drift of taps | 3 of 4 | 75 % | 1 of 7 |" in text
    assert "| frames and sound alone (imported PNG, WAV) | 1 of 4 | 25 % | 1 of 7 |" in text
    assert "| drift.* | 2 of 4 | 50 % |" in text and "| frames.* | 1 of 4 | 25 % |" in text
    assert "| findings: something missing, extra, NaN or of another shape | 1 of 4 | 25 % |" in text
    assert "3 of 4 defects caught are located in the right module; equivalent by the oracle: x." in text
    assert "Xeon, 1 thread, torch 2.13.0" in text
