"""The golden of a large run: reduced in the repository, whole in the store, refused when either was changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.diff.runs import compare_runs, reduced_of
from parity.runs import golden, reduced
from parity.runs.folder import (
    KEY_FRAME_FILES,
    OUTPUTS_FILE,
    REDUCED_FILE,
    RUN_FILE,
    VIDEO_FILE,
    Run,
    read_run,
    write_run,
)
from parity.runs.reduced import reduce_outputs
from parity.runs.store import ENVIRONMENT_VARIABLE
from parity.trace.file import read_trace
from runners.case import load_case
from runners.errors import RunError
from runners.protocol import Outcome

Write = Callable[..., Run]
CASE = """
id = "large"
pipeline = "one_stage"
[request]
prompt = "An astronaut waves."
seed = 10
height = 64
width = 96
num_frames = 9
frame_rate = 30.0
num_inference_steps = 2
[guidance.video]
cfg_scale = 3.0
stg_scale = 1.0
rescale_scale = 0.7
modality_scale = 3.0
stg_blocks = [1]
[guidance.audio]
cfg_scale = 3.0
stg_scale = 1.0
rescale_scale = 0.7
modality_scale = 3.0
stg_blocks = [1]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write runs of one case in a checkout of its own, where every golden counts as large."""
    folder = tmp_path / "golden" / "large"
    folder.mkdir(parents=True)
    (folder / "case.toml").write_text(CASE)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "store"))
    monkeypatch.setattr(golden, "LARGEST_WHOLE_BYTES", 1000)

    def write_one(name: str, runner: str = "official", bump: int = 0) -> Run:
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(0, 250, (9, 64, 96, 3), generator=generator, dtype=torch.uint8)
        frames[1] += bump  # of a frame that no golden keeps whole
        out = tmp_path / name
        out.mkdir()
        write_run(
            out,
            load_case(folder / "case.toml"),
            Outcome(
                video_frames=frames,
                audio_waveform=torch.rand(2, 4800, generator=generator) - 0.5,
                video_latent=torch.randn(1, 128, 2, 2, 3, generator=generator).bfloat16(),
                audio_latent=torch.randn(1, 8, 7, 16, generator=generator).bfloat16(),
                frame_rate=30.0,
                sample_rate_hz=48000,
                sigmas=torch.tensor([1.0, 0.5, 0.0]),
                stage_s={"denoising": 2.5},
                step_s=[1.25, 1.25],
                peak_bytes=1 << 20,
                details={},
            ),
            runner=runner,
            tier="exact",
            dtype="bf16",
            weights_hash="ab" * 32,
            model_version="2.3.0",
            environment={"torch": "2.13.0"},
            end_to_end_s=3.5,
            num_blocks=2,
            loras={},
        )
        return read_run(out)

    return write_one


def test_a_large_golden_is_reduced_and_a_candidate_is_judged_by_it(write: Write) -> None:
    folder = golden.bless(write("official"), "first")
    kept = {path.name for path in (folder / "run").iterdir()}
    assert kept == {RUN_FILE, REDUCED_FILE, *KEY_FRAME_FILES}
    recorded = golden.golden_of("large")
    assert recorded.reduced
    with pytest.raises(RunError, match="parity fetch"):
        recorded.outputs()
    same = compare_runs(recorded, write("native", "native"))
    assert same.findings == () and same.metrics["outputs.bit_equal.frames"] == 1.0
    assert len(same.per_frame["small_psnr_db"]) == 9
    other = compare_runs(recorded, write("other", "native", bump=1))
    assert other.metrics["outputs.bit_equal.frames"] == 0.0 and other.metrics["small_frames.max_abs"] == 1.0


@pytest.mark.parametrize("large", [True, False])
def test_a_golden_is_made_and_read_of_the_bytes_that_were_hashed(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    run, other = write("official"), write("other", bump=1)
    frames, stored = run.outputs().video_frames.clone(), {**run.manifest.files, RUN_FILE: run.sha256}
    for name in stored:
        (other.folder / name).replace(run.folder / name)  # after they were held to their hashes
    monkeypatch.setattr(golden, "LARGEST_WHOLE_BYTES", 1000 if large else 1 << 30)
    golden.bless(run, "it ships")
    blessing, kept = golden.blessing_of("large"), golden.golden_of("large")
    assert blessing.source_sha256 == run.sha256 and kept.reduced == large
    for name in kept.manifest.files:
        (tmp_path / name).write_bytes(b"something else")
        (tmp_path / name).replace(kept.folder / name)
    if not large:
        assert torch.equal(kept.outputs().video_frames, frames)
        return
    wanted, small = reduce_outputs(run.outputs()), reduced_of(kept)
    assert torch.equal(small.small_frames, wanted.small_frames) and torch.equal(small.key_frames, wanted.key_frames)
    assert {name: one.sha256 for name, one in blessing.whole.items()} == stored


def test_a_golden_from_the_store_is_read_of_the_bytes_that_were_hashed(write: Write, tmp_path: Path) -> None:
    run = write("official")
    golden.bless(run, "it ships")
    whole = golden.whole_golden_of("large", tmp_path / "whole")
    assert whole.folder == tmp_path / "whole" and whole.sha256 == run.sha256
    (tmp_path / "other").write_bytes(b"something else")
    (tmp_path / "other").replace(whole.folder / OUTPUTS_FILE)
    assert torch.equal(whole.outputs().video_frames, run.outputs().video_frames)


def test_a_candidate_is_reduced_over_the_boxes_of_its_golden(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(reduced, "default_box_px", lambda height_px, width_px: 16)  # new goldens of this size have 8
        golden.bless(write("official"), "first")
    recorded, native = golden.golden_of("large"), write("native", "native")
    for one, other in ((recorded, native), (native, recorded)):
        found = compare_runs(one, other)
        codes = {finding.code for finding in found.findings}
        assert codes == {"frame_too_small"} | ({"reduced_candidate"} if other is recorded else set())  # 4 x 6 pixels
        assert found.metrics["small_frames.max_abs"] == 0.0


def test_the_whole_run_comes_back_from_the_store_as_it_was(write: Write, tmp_path: Path) -> None:
    official = write("official")
    golden.bless(official, "first")
    shutil.rmtree(official.folder)
    whole = golden.whole_golden_of("large", tmp_path / "fetched")
    assert not whole.reduced and whole.manifest == official.manifest and whole.has(VIDEO_FILE)
    assert compare_runs(whole, write("native", "native", bump=2)).metrics["frames.max_abs"] == 2.0
    assert golden.reference_run("whole-golden", "large").manifest == official.manifest
    shutil.rmtree(tmp_path / "store")
    assert golden.whole_golden_of("large", tmp_path / "fetched").manifest == official.manifest  # needs no store again
    with pytest.raises(RunError, match="has no file"):
        golden.whole_golden_of("large", tmp_path / "anew")
    assert not (tmp_path / "anew").exists()


def test_a_changed_golden_or_store_is_refused(write: Write, tmp_path: Path) -> None:
    folder = golden.bless(write("official"), "first")
    document = json.loads((folder / "golden.json").read_text())
    stored = document["history"][-1]["whole"][OUTPUTS_FILE]["sha256"]
    lying = tmp_path / "store" / stored[:2] / stored
    lying.write_bytes(bytes(lying.stat().st_size))
    with pytest.raises(RunError, match="damaged"):
        golden.whole_golden_of("large", tmp_path / "fetched")
    document["history"][-1]["whole"]["../run.json"] = document["history"][-1]["whole"].pop(RUN_FILE)
    (folder / "golden.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match="that is no run"):
        golden.whole_golden_of("large", tmp_path / "fetched")
    (folder / "run" / KEY_FRAME_FILES[0]).write_bytes(b"")
    with pytest.raises(RunError, match="frame_first"):
        golden.golden_of("large")


def test_a_small_golden_stays_whole_and_needs_no_store(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(golden, "LARGEST_WHOLE_BYTES", 8 << 20)
    official = write("official")
    golden.bless(official, "first")
    assert golden.golden_of("large").outputs().video_frames.shape == (9, 64, 96, 3)
    assert golden.whole_golden_of("large", tmp_path / "fetched").folder == tmp_path / "golden" / "large" / "run"
    assert not (tmp_path / "store").exists()


CHECKOUT = Path(__file__).parents[3] / "golden"


@pytest.mark.parametrize("release", ["", "release_1.2.0_"])
@pytest.mark.parametrize(
    ("case", "taps"),
    [
        ("ltx_2.3_one_stage_ti2v", 55092),
        ("ltx_2.3_one_stage_ti2v_25f", 55092),
        ("ltx_2.3_one_stage_ti2v_no_v2a", 50772),  # 30 steps and 3 passes with 48 attentions less: 4320
    ],
)
def test_the_goldens_at_full_size_know_the_bits_of_every_tap(release: str, case: str, taps: int) -> None:
    run = golden.golden_of(release + case)
    trace = read_trace(run.folder)
    assert trace.complete and len(trace.bits) == taps and 1000 < len(trace) < 1300
    kept = reduced_of(run)
    frames = run.manifest.case["request"]["num_frames"]
    assert kept.box_px == 16 and kept.frame_shape == (frames, 512, 768, 3)
    assert "H100" in run.manifest.environment["device_name"]


@pytest.mark.parametrize(
    ("case", "taps"),
    [
        ("ltx_2.3_distilled_ti2v", 5359),
        ("ltx_2.3_distilled_ti2v_25f", 5359),
        ("ltx_2.3_distilled_ti2v_25f_no_v2a", 4831),
        ("ltx_2.3_distilled_ti2v_no_v2a", 4831),  # 11 passes with 48 attentions less: 528
        ("ltx_2.3_two_stage_ti2v", 56554),
        ("ltx_2.3_two_stage_ti2v_25f", 56554),
        ("ltx_2.3_two_stage_ti2v_25f_no_v2a", 52090),
        ("ltx_2.3_two_stage_ti2v_no_v2a", 52090),  # 30 steps of 3 passes and 3 of one: 4464
        ("ltx_2.3_two_stage_hq_ti2v_25f", 45392),
    ],
)
def test_the_goldens_of_two_stages_at_full_size_know_the_bits_of_both(case: str, taps: int) -> None:
    run = golden.golden_of(case)
    trace, request = read_trace(run.folder), run.case.request
    assert trace.complete and len(trace.bits) == taps
    for kept in ("upsample/latent", "stage2/init/video", "stage2/denoise/000/cond/block/47/video/ff"):
        assert kept in trace, kept
    found = reduced_of(run)
    assert found.frame_shape == (request.num_frames, request.height, request.width, 3)
    assert found.key_frame_places == (request.num_frames // 2,)
    assert found.key_frames.shape[1:3] == (request.height // 2, request.width // 2)
    assert "H200" in run.manifest.environment["device_name"]


@pytest.mark.parametrize(
    ("case", "video_tokens", "audio_tokens"),
    # 768x512 has 24 x 16 tokens a latent frame, of which 121 frames have 16 and 25 have 4; a second has 25 of sound.
    [
        ("ltx_2.3_one_stage_ti2v", 6144, 126),
        ("ltx_2.3_one_stage_ti2v_25f", 1536, 26),
        ("ltx_2.3_one_stage_ti2v_no_v2a", 6144, 126),
        ("release_1.2.0_ltx_2.3_one_stage_ti2v", 6144, 126),
        ("release_1.2.0_ltx_2.3_one_stage_ti2v_25f", 1536, 26),
        ("release_1.2.0_ltx_2.3_one_stage_ti2v_no_v2a", 6144, 126),
    ],
)
def test_the_goldens_at_full_size_name_the_attention_kernels(case: str, video_tokens: int, audio_tokens: int) -> None:
    kernels = golden.golden_of(case).manifest.details["attention_kernels"]
    video, audio = f"(1, 32, {video_tokens}, 128)", f"(1, 32, {audio_tokens}, 64)"
    across = f"(1, 32, {video_tokens}, 64)"  # between the modalities, heads are as wide as the audio's
    for query, key in ((video, video), (audio, audio), (across, audio)):
        assert kernels[f"bfloat16 {query} x {key}"] == "cudnn"
    assert kernels.get(f"bfloat16 {audio} x {across}") == (None if case.endswith("no_v2a") else "cudnn")
    text = [form for form in kernels if form.endswith("mask")]
    assert text and all(kernels[form] for form in text)


def test_goldens_at_full_size_take_at_most_40_megabytes_and_60_of_two_stages() -> None:
    sizes = {path: path.stat().st_size for path in CHECKOUT.glob("*ltx_2.3*/**/*") if path.is_file()}
    one = sum(size for path, size in sizes.items() if "one_stage" in str(path.relative_to(CHECKOUT)))
    assert 20_000_000 < one <= 40_000_000
    assert sum(sizes.values()) - one <= 60_000_000
