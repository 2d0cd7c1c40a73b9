"""The largest size of each file of a run follows from its case, and a larger one is refused unread."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.runs.folder import DATA_FILES, OUTPUTS_FILE, RUN_FILE, TENSORS_FILE, TRACE_FILE, read_run
from parity.runs.sizes import most_bytes, most_taps
from parity.taps.dataflow import Dataflow
from runners.case import Case, load_case, parse_case
from runners.errors import RunError

GOLDEN = Path(__file__).parent.parent.parent.parent / "golden"


@pytest.mark.parametrize("folder", sorted(path.parent for path in GOLDEN.glob("*/golden.json")), ids=lambda p: p.name)
def test_every_golden_is_far_below_its_bounds(folder: Path) -> None:
    run = read_run(folder / "run")
    for name in run.manifest.files:
        size = (run.folder / name).stat().st_size
        assert 2 * size < run.most_bytes(name)
    case = load_case(folder / "case.toml")
    blocks = run.manifest.num_blocks or 48
    assert len(Dataflow(case, blocks).taps) < most_taps(case, run.manifest.num_blocks)


def test_bounds_by_hand(micro_case: Callable[..., Case]) -> None:
    case = micro_case()  # 2 steps, 4 passes, 9 frames of 64 x 96 in 0.2 s
    assert most_taps(case, 3) == 2 * (2 * (4 * (3 * 10 + 2) + 4) + 16) + 1024 == 1584
    assert most_bytes(TRACE_FILE, case, 3) == 1584 * 1024
    frames, sound, tokens = 9 * 64 * 96 * 3, 38_400 * 8, 2 * 2 * 3 + 5 + 1
    outputs = (64 << 20) + 4 * (frames + sound + tokens * 128 * 8)
    assert most_bytes(OUTPUTS_FILE, case, 3) == outputs
    assert most_bytes(TENSORS_FILE, case, 3) == outputs + 4 * (tokens * 4096 * 1584 + 2048 * (49 * 3840 + 4 * 4096))


@pytest.mark.parametrize("name", DATA_FILES)
def test_a_file_of_terabytes_is_refused_before_it_is_hashed(
    name: str, leave_run: Callable[..., Path], micro_case_text: str, tmp_path: Path
) -> None:
    folder = leave_run("run")
    parse_case(micro_case_text, tmp_path)
    with (folder / name).open("ab") as file:
        file.truncate(1 << 42)
    record = json.loads((folder / RUN_FILE).read_text())
    record["files"] |= dict.fromkeys([OUTPUTS_FILE, name], record["files"][OUTPUTS_FILE])
    if name not in (OUTPUTS_FILE, "checksums.safetensors"):
        record["files"] = {name: "0" * 64, **record["files"]}
    (folder / RUN_FILE).write_text(json.dumps(record))
    before_s = time.process_time()
    with pytest.raises(RunError, match=r"has more than \d+ bytes|is no part of this run"):
        read_run(folder)
    assert time.process_time() - before_s < 1
