"""Limits of cases in sittings: what a call leaves in its folder, what the next one takes from there."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from parity.judge.limit_table import TableKey
from parity.judge.registry import load_registry
from runners.weights import WeightsFolder

BENCH = Path(__file__).parents[2] / "bench"
MEMBERS = ("noise_ulp_0", "steps", "text_without_first_token")


@pytest.mark.slow
def test_a_call_out_of_time_leaves_members_and_the_next_one_limits(
    tmp_path: Path,
    micro_case_text: str,
    micro_weights: WeightsFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "golden" / "micro").mkdir(parents=True)
    (root / "golden" / "micro" / "case.toml").write_text(micro_case_text)
    (root / "thresholds").mkdir()
    monkeypatch.setenv("PARITY_ROOT", str(root))
    monkeypatch.syspath_prepend(str(BENCH))
    limits = importlib.import_module("limits")
    only = [word for name in MEMBERS for word in ("--only", name)]

    def call(minutes: str) -> int:
        folder = str(micro_weights.folder)
        given = ("--out", str(out), "--cases", "micro", "--device", "cpu", "--weights", folder, "--minutes", minutes)
        monkeypatch.setattr("sys.argv", ["limits.py", *given, *only])
        code: int = limits.main()
        return code

    assert call("0") == 2 and "Out of time before 'native_as_it_is'" in capsys.readouterr().out
    before = torch.get_num_threads()
    assert call("60") == 0
    assert torch.get_num_threads() == before
    assert "micro: 2 harmless, 1 of " in capsys.readouterr().out
    kept = json.loads((out / "samples_micro.json").read_text())
    assert set(kept["members"]) == {"native_as_it_is", *MEMBERS}
    assert all(member["took_s"] > 0 for member in kept["members"].values())
    registry = load_registry(out / "thresholds" / "consistency_threshold.json")
    registry.verify()
    found = registry.cases[TableKey("micro")]
    assert {"video_latent.relative_l2", "drift.block.video.ff.first_step", "isolated.guided.video"} <= found.keys()
    [calibration] = registry.calibrations.values()
    assert calibration.command.startswith("python bench/limits.py --cases micro --device cpu")
    assert list((root / "thresholds").iterdir()) == [], "nothing of the checkout is changed"
    monkeypatch.setattr("parity.calibrate.populations.drift", None)  # whatever is kept is not measured again
    assert call("0") == 0
