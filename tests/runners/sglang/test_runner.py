"""SGLang itself, in its own environment (PARITY_SGLANG_PYTHON): its request object, its taps, what a run says of it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.runs.child import ChildRunner
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.trace.file import read_trace
from runners.case import Case, parse_case
from runners.clock import Quiet
from runners.native.request import sampling_params
from runners.official.runner import OfficialRunner
from runners.protocol import RunOptions
from runners.sglang.request import GUIDERS, SKIP_V2A, request_keywords
from runners.weights import WeightsFolder

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
BF16 = RunOptions(device=CPU)
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
PICTURE = {"request.images": [{"path": "astronaut.png"}]}
# The vocoder's resampling filter is in no checkpoint, and SGLang computes it with bf16 as torch's default dtype.
DEPARTS = {"decode/waveform"}

pytestmark = pytest.mark.slow


@pytest.fixture
def case(micro_case_text: str, pictures: Path) -> Callable[..., Case]:
    """The micro case with guidance that the tiny model's four blocks show, at one step."""

    def make(overrides: dict[str, Any]) -> Case:
        return parse_case(micro_case_text, pictures, {"request.num_inference_steps": 2, **overrides})

    return make


def in_engine(python: Path, code: str, *arguments: str) -> Any:
    """The JSON that a program prints, run where SGLang is."""
    done = subprocess.run(
        [str(python), "-c", code, *arguments],
        capture_output=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout.decode().rpartition("ANSWER")[2])


REQUEST = """
import json, sys, torch
from types import SimpleNamespace
from runners.sglang.runner import engine_request, prepare_process
prepare_process(torch.device("cpu"))
from sglang.multimodal_gen.configs.pipeline_configs.ltx_2 import LTX23PipelineConfig
server = SimpleNamespace(pipeline_config=LTX23PipelineConfig(), output_path=None, attention_backend_config=None,
                         comfyui_mode=False, enable_trace=False, num_gpus=1)
request = engine_request(server, json.loads(sys.argv[1]))
names = ("prompt", "negative_prompt", "seed", "height", "width", "num_frames", "fps", "num_inference_steps")
print("ANSWER" + json.dumps({"extra": request.extra} | {name: getattr(request, name) for name in names}))
"""


@pytest.mark.parametrize("overrides", [{}, V2A_OFF, {"guidance.video.skip_step": 3, "guidance.audio.stg_scale": 0.0}])
def test_the_engines_request_object_holds_exactly_the_native_request(
    sglang_python: Path, case: Callable[..., Case], overrides: dict[str, Any]
) -> None:
    asked = case(overrides)
    held = in_engine(sglang_python, REQUEST, json.dumps(request_keywords(asked)))
    sampling = sampling_params(asked)
    extra = {name: value for name, value in held.pop("extra").items() if name.startswith("ltx2_")}
    assert extra == sampling.build_request_extra()
    assert len(extra[GUIDERS]) == 12 and (SKIP_V2A in extra) is (overrides == V2A_OFF)
    assert held == {
        "prompt": sampling.prompt,
        "negative_prompt": sampling.negative_prompt,
        "seed": 10,
        "height": 64,
        "width": 96,
        "num_frames": 9,
        "fps": 45,
        "num_inference_steps": 2,
    }


def in_child(python: Path, case: Case, weights: WeightsFolder, out: Path, options: RunOptions = BF16) -> Run:
    child = ChildRunner(python=python, name="sglang", weights=weights, options=options, beside=out, threads=1)
    run_to_folder(child, case, weights, options, out, Quiet(), writing_trace("*", "sketch"))
    return read_run(out)


@pytest.mark.parametrize("overrides", [PICTURE, V2A_OFF], ids=["picture", "text-without-v2a"])
def test_every_tap_but_the_waveform_has_the_bits_of_official_1_0_0(
    sglang_python: Path, case: Callable[..., Case], tiny_weights: WeightsFolder, tmp_path: Path, overrides: Any
) -> None:
    asked = case(overrides)
    torch.set_num_threads(1)
    official = OfficialRunner(tiny_weights, BF16)
    run_to_folder(official, asked, tiny_weights, BF16, tmp_path / "official", Quiet(), writing_trace("*", "sketch"))
    run = in_child(sglang_python, asked, tiny_weights, tmp_path / "sglang")
    ours, theirs = (read_trace(folder).bits for folder in (run.folder, tmp_path / "official"))
    assert ours.keys() == theirs.keys()
    assert {name for name in theirs if ours[name] != theirs[name]} == DEPARTS
    details = run.manifest.details
    assert details["candidate"] == ["SGLang 0.5.23", "quality exact", "autocast off"]
    assert not [component for component, found in details["loaded"].items() if found["missing"]]
    assert details["transformer_calls_a_step"] == [4, 4]


def test_its_served_quality_runs_all_passes_in_one_call_and_is_recorded_with_the_candidate(
    sglang_python: Path, case: Callable[..., Case], tiny_weights: WeightsFolder, tmp_path: Path
) -> None:
    options = RunOptions(device=CPU, engine={"quality": "lossless", "autocast": "on"})
    asked = case({"request.num_inference_steps": 1})
    run = in_child(sglang_python, asked, tiny_weights, tmp_path / "run", options)
    details = run.manifest.details
    assert details["candidate"] == ["SGLang 0.5.23", "quality lossless", "autocast on"]
    assert details["transformer_calls_a_step"] == [1]
    assert run.manifest.case["switches"]["disable_autocast"] is True  # still the same case
    names = set(read_trace(run.folder))
    assert "denoise/000/cond/block/03/audio/av_attn" in names
    assert "denoise/000/isolated/block/03/audio/ff" in names
    assert "denoise/000/isolated/block/03/audio/av_attn" not in names
