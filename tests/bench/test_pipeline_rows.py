from pathlib import Path
from typing import Any

from bench.pipeline_rows import pipeline_rows, release_rows
from bench.pipelines import SCALED_CASES, WITH_FP8_CAST, WITH_FP8_SCALED, WITH_LORA, requests
from parity.defects.variant import LORA
from runners.forge.make import LORA_NAME
from runners.stages import PIPELINES


def compared(v2a: bool, taps: int, equal: int, outputs: bool = True, pipeline: str = "distilled") -> dict[str, Any]:
    return {"pipeline": pipeline, "v2a": v2a, "taps": taps, "taps_equal": equal, "outputs_equal": outputs}


def suite(device: str, *lines: tuple[str, str, int, bool]) -> dict[str, Any]:
    found = [
        {"case": case, "what": what, "exit_code": 0, "taps": {"compared": taps, "bit_equal": equal}}
        for case, what, taps, equal in lines
    ]
    return {"environment": {"device_name": device}, "lines": found}


def defect(name: str, case: str, killed: bool, equivalent: bool = False) -> dict[str, Any]:
    return {"id": name, "case": case, "killed": killed, "equivalent": equivalent}


LIVE = "native against official"
KINDS = {
    "pipelines": [
        {"release": "1.0.0", "lines": [compared(True, 519, 519), compared(False, 475, 475)]},
        {"release": "1.1.2", "lines": [compared(True, 519, 400), compared(False, 475, 475, outputs=False)]},
    ],
    "suite": [
        suite("NVIDIA H100 80GB", ("ltx_2.3_distilled_ti2v", LIVE, 7, False), ("gone", LIVE, 3, True)),
        suite("NVIDIA H100 80GB", ("ltx_2.3_distilled_ti2v", LIVE, 11, True)),  # the last of that GPU counts
        suite("NVIDIA H200", ("ltx_2.3_distilled_ti2v_25f", LIVE, 5, True)),
        suite("NVIDIA H200", ("ltx_2.3_distilled_ti2v_no_v2a", "native against golden", 13, True)),
    ],
    "mutation": [
        {
            "limits_of": "tiny_ti2v",
            "rows": [
                defect("a", "tiny_distilled", True),
                defect("b", "tiny_distilled", False),
                defect("c", "tiny_distilled", False, equivalent=True),
                defect("d", "a keyframe", True),
                defect("e", LORA.name, True),
            ],
            "false_alarms": 0,
            "benign_runs": 7,
        },
        {
            "limits_of": "release_1.2.0_tiny_keyframes",
            "rows": [defect("a", "as it is", True), defect("f", "as it is", True)],
            "false_alarms": 3,
            "benign_runs": 11,
        },
        {  # tried again, and counted once
            "limits_of": "tiny_distilled",
            "rows": [defect("a", "as it is", True)],
            "false_alarms": 0,
            "benign_runs": 11,
        },
    ],
}


def test_a_row_says_what_files_show_of_a_pipeline_in_a_release_and_a_dash_where_none_does() -> None:
    rows = {row[:2]: row[2:] for row in release_rows(KINDS)}
    on, cpu, gpu, goldens, limits, caught = rows["distilled", "1.0.0"]
    assert (on, cpu, gpu, caught) == ("CPU, H100, H200", "519 + 475", "16 + -", "1 of 2")
    assert goldens.endswith("1 tiny") and limits.startswith("1 CPU")  # of the checkout's own
    assert rows["distilled", "1.1.2"] == ("CPU", "400 of 519 + 0 of 475", "-", "-", "-", "-")
    assert rows["one_stage", "1.0.0"][-1] == "1 of 1" and rows[WITH_LORA, "1.0.0"][-1] == "1 of 1"
    assert rows["keyframes", "1.2.0"][-1] == "2 of 2, 3 of 11 harmless runs stopped"
    assert (WITH_FP8_CAST, "1.0.0") not in rows and ("two_stage_hq", "1.1.2") not in rows


def test_releases_of_a_pipeline_share_a_row() -> None:
    (row,) = (row for row in pipeline_rows(KINDS) if row[0] == "distilled")
    assert row[1] == "1.0.0<br>1.1.2<br>1.2.0" and row[3] == "519 + 475<br>400 of 519 + 0 of 475<br>-"


def test_every_pipeline_is_asked_of_a_release_with_and_without_v2a(tmp_path: Path) -> None:
    (tmp_path / LORA_NAME).touch()
    asked = {name: case for name, case, _ in requests("1.2.0", tmp_path, skip_v2a=True)}
    assert {case.pipeline for case in asked.values()} == set(PIPELINES)
    assert all(case.reference == "1.2.0" for case in asked.values())
    assert all(case.switches.skip_v2a_cross_attn_for_video_gt for case in asked.values())
    assert [name for name, case in asked.items() if case.loras] == [WITH_LORA]
    assert [name for name, case in asked.items() if case.quantization] == [WITH_FP8_CAST]


def test_products_of_e4m3_numbers_have_weights_of_their_own(tmp_path: Path) -> None:
    (tmp_path / LORA_NAME).touch()
    scaled = tmp_path / "scaled"
    asked = [(name, case) for name, case, weights in requests("1.2.0", tmp_path, False, scaled) if weights == scaled]
    assert [(name, case.pipeline) for name, case in asked] == [(WITH_FP8_SCALED, one) for one in SCALED_CASES]
    assert {case.quantization for _, case in asked} == {"fp8_scaled_mm"}
