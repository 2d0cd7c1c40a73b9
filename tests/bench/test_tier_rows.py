"""Rows of the tables of tiers, from documents small enough to work out by hand."""

from typing import Any

from bench.tier_rows import (
    DEFECTS_COLUMNS,
    GATE_COLUMNS,
    LADDER_COLUMNS,
    WHOLE_COLUMNS,
    defects_row,
    fused_rows,
    gate_rows,
    ladder_rows,
    products_rows,
    whole_rows,
)

GIB = 1 << 30


def errors(video: float, audio: float) -> dict[str, dict[str, float]]:
    """Twice as much at the second step."""
    return {"video": {"0": video, "15": 2 * video}, "audio": {"0": audio, "15": 2 * audio}}


LADDER: dict[str, Any] = {
    "case": "a_case",
    "environment": {"device_name": "a GPU"},
    "error": {"exact": errors(0.01, 0.02), "other_kernel": errors(0.015, 0.02), "fast": errors(0.005, 0.01)},
    "step_s": {"exact": [2.0, 4.0, 3.0], "other_kernel": [3.6]},
}


def run(runner: str, tier: str, step_s: float, case: str = "a_case") -> dict[str, Any]:
    """One run, whose first step warms up."""
    times = {"step_s": [99.0, step_s], "end_to_end_s": 10 * step_s, "peak_bytes": 3 * GIB}
    return {"case": case, "runner": runner, "tier": tier, "times": times}


SAMPLES = {"runs": [run("official", "exact", 3.0), run("native", "exact", 2.0), run("native", "fast", 1.5)]}


def test_a_ladder_takes_times_from_runs_by_turns_and_errors_in_multiples_of_the_official_code() -> None:
    rows = {row[0]: row[1:] for row in ladder_rows(LADDER, [SAMPLES])}
    unjudged = ("-", "-")
    assert rows["official 1.0.0"] == ("3.000", "1.00", "30.0", "3.0", "0.0200", "1.00", "0.0400", "1.00", *unjudged)
    assert rows["exact"] == ("2.000", "1.50", "20.0", "3.0", "0.0200", "1.00", "0.0400", "1.00", *unjudged)
    assert rows["fast"] == ("1.500", "2.00", "15.0", "3.0", "0.0100", "0.50", "0.0200", "0.50", *unjudged)
    other = rows["exact, another attention kernel"]
    assert other == ("1.20 of exact's", "-", "-", "-", "0.0300", "1.50", "0.0400", "1.00", *unjudged)
    assert all(len(row) + 1 == len(LADDER_COLUMNS) for row in rows.values())


def test_a_ladder_takes_the_gates_word_on_the_same_case_and_device() -> None:
    values = {"frames.psnr_db.min": 45.68, "audio.snr_db.min": "inf", "av.offset_ms.abs": 10.0}
    word = {"limits": 100, "failed": ["x", "y", "z"], "values": values}
    better = {"limits": 100, "failed": [], "values": values}
    here = {"case": "a_case", "environment": {"device_name": "a GPU"}, "tiers": {"fast": word}}
    others = [
        {**here, "case": "another", "tiers": {"fast": better, "exact": better}},
        {**here, "environment": {"device": "cpu"}, "tiers": {"fast": better, "exact": better}},
    ]
    rows = {row[0]: row for row in ladder_rows(LADDER, [SAMPLES], [here, *others])}
    assert rows["fast"][-2:] == ("45.7, inf; 10.0", "97 of 100")
    assert rows["exact"][-2:] == rows["official 1.0.0"][-2:] == ("-", "-")


def test_runs_of_another_case_or_of_one_tier_alone_give_no_times() -> None:
    elsewhere = {"runs": [run("native", "exact", 2.0, "another"), run("native", "fast", 1.5, "another")]}
    alone = {"runs": [run("native", "exact", 2.0)]}
    rows = {row[0]: row[1:] for row in ladder_rows(LADDER, [elsewhere, alone])}
    assert rows["exact"][:4] == ("1.00 of exact's", "-", "-", "-")
    assert rows["fast"][:4] == ("-", "-", "-", "-")


def test_a_tiers_score_names_what_survives_and_counts_what_was_not_tried() -> None:
    def tried(name: str, killed: bool, equivalent: bool = False) -> dict[str, Any]:
        return {"id": name, "killed": killed, "equivalent": equivalent}

    score = {
        "tier": "fast",
        "defects": 5,
        "killed": 3,
        "located": 2,
        "killed_by_outputs": 1,
        "rows": [tried("a", True), tried("b", False), tried("c", False, equivalent=True), tried("d", False)],
        "equivalents": ["c", "p"],
        "unreached": ["e", "f", "g", "h"],
        "refused": ["i"],
        "without_limits": ["j", "k", "l", "m", "n"],
        "without_reference": ["o"],
        "benign_runs": 11,
        "false_alarms": 1,
        "benign_rows": [{"id": "oracle", "killed": True}, {"id": "fast", "killed": False}],
    }
    row = ("fast", "3 of 5", "2 of 3", "1", "`b`, `d`", "2", "4", "1", "6", "1 of 11: `oracle`")
    assert defects_row(score) == row and len(row) == len(DEFECTS_COLUMNS)
    good = {**score, "rows": [tried("a", True)], "false_alarms": 0, "benign_rows": []}
    assert (defects_row(good)[4], defects_row(good)[-1]) == ("none", "0 of 11")


def test_the_gate_counts_the_limits_that_hold() -> None:
    found = {
        "outcome": "not_at_parity",
        "limits": 9,
        "failed": ["one", "another"],
        "worst": {"metric": "one", "used": 1.25},
        "values": {"frames.psnr_db.min": "inf", "audio.snr_db.min": 31.26, "av.offset_ms.abs": 0.0},
    }
    (row,) = gate_rows({"tiers": {"fp8": found}})
    assert row == ("fp8", "not at parity", "7 of 9", "1.25 `one`", "inf", "31.3", "0.0")
    assert len(row) == len(GATE_COLUMNS)


def test_an_operation_moves_its_tensors_once() -> None:
    seconds = {"kernel_s": 2e-6, "compiled_s": 3e-6, "torch_s": 40e-6}
    names = ("norm_modulate", "add_branch", "add_branch_two", "norm_rotate", "norm_queries", "gate_heads")
    operations = {name: dict(seconds) for name in names}
    del operations["add_branch_two"]["compiled_s"]  # the compiler can fail
    rows = fused_rows({"tensor_bytes": 1e6, "operations": operations})
    assert rows[0] == ("`norm_modulate`", "2", "3", "40", "1.50")  # fp32 in, bf16 out
    assert rows[2] == ("`add_branch_two`", "2", "failed", "40", "3.50")


def test_a_whole_run_is_held_to_fp32_and_to_the_official_run() -> None:
    def values(video: float, audio: float, psnr: float, snr: float) -> dict[str, float]:
        return {
            "video_latent.relative_l2": video,
            "audio_latent.relative_l2": audio,
            "frames.psnr_db.mean": psnr,
            "audio.snr_db.min": snr,
            "av.offset_ms.abs": 0.5,
        }

    exact = {"fp32": values(0.02, 0.04, 46.0, 33.0), "exact": values(0.0, 0.0, float("inf"), float("inf"))}
    fast = {"fp32": values(0.01, 0.05, 47.5, 34.0), "exact": values(0.025, 0.03, 45.0, 32.0)}
    rows = whole_rows({"runs": {"exact": exact, "fast": fast}})
    assert rows[0] == ("exact", "0.0200", "1.00", "0.0400", "1.00", "46.0", "33.0", "inf", "inf", "0.5")
    assert rows[1] == ("fast", "0.0100", "0.50", "0.0500", "1.25", "47.5", "34.0", "45.0", "32.0", "0.5")
    assert len(rows[0]) == len(WHOLE_COLUMNS)


def test_products_have_their_share_of_what_is_added() -> None:
    document = {
        "added": {"wide": {"0": 1.0, "1": 2.0}, "narrow": {"0": 1.0, "1": 0.0}},
        "saved_s": {"wide": 0.002, "narrow": 0.0005},
        "tiers": {"fp8": {"products": {"wide": [1]}}, "fp8x2": {"products": {"wide": [0, 1], "narrow": [1]}}},
    }
    assert products_rows(document) == [("`wide`", "75.0%", "2.00", "1", "2"), ("`narrow`", "25.0%", "0.50", "0", "1")]
