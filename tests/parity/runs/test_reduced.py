"""Reduction: what a golden keeps of a large run, and what a stranger's golden is refused for."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from parity.diff.comparison import level_of
from parity.diff.metric import METRICS
from parity.diff.outputs import OutputsDiff, compare_reduced
from parity.runs.folder import KEY_FRAME_FILES, MIDDLE_FRAME_FILE, REDUCED_FILE, RunOutputs
from parity.runs.outputs import write_tensors
from parity.runs.reduced import (
    ReducedOutputs,
    default_box_px,
    kept_taps,
    read_reduced,
    reduce_outputs,
    spread,
    write_reduced,
    write_reduced_trace,
)
from parity.taps.pattern import chosen
from parity.trace.file import SketchTable, read_trace, write_trace
from runners.case import Case
from runners.errors import RunError
from runners.request import Guider
from runners.stages import StagePlan

FRAMES, HEIGHT, WIDTH = 5, 60, 96  # the height is no multiple of a box


@pytest.fixture
def outputs() -> RunOutputs:
    generator = torch.Generator().manual_seed(0)
    return RunOutputs(
        video_frames=torch.randint(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator),
        audio_waveform=(0.1 * torch.randn(2, 2400, generator=generator)).bfloat16().float(),
        video_latent=torch.randn(1, 128, 2, 4, 3, generator=generator).bfloat16(),
        audio_latent=torch.randn(1, 8, 7, 16, generator=generator).bfloat16(),
        frame_rate=24.0,
        sample_rate=48000,
    )


def changed(outputs: RunOutputs, frame: int, row: int) -> ReducedOutputs:
    frames = outputs.video_frames.clone()
    frames[frame, row, 3, 1] ^= 1
    return reduce_outputs(replace(outputs, video_frames=frames))


def values(diff: OutputsDiff, *names: str) -> list[float]:
    return [diff.metrics[name] for name in names]


def test_a_small_frame_holds_rounded_means_of_boxes_also_of_cut_ones_at_the_edge(outputs: RunOutputs) -> None:
    frames = torch.zeros(1, 12, 8, 3, dtype=torch.uint8)
    frames[0, :8, :, 0] = 3
    frames[0, 0, 0, 0] = 35  # 63 * 3 + 35 = 224, over 64 is 3.5, halves go up
    frames[0, 8:, :4, 2] = 200  # half of a box of 4 x 8
    assert reduce_outputs(replace(outputs, video_frames=frames)).small_frames.tolist() == [[[[4, 0, 0]], [[0, 0, 100]]]]


@pytest.mark.parametrize(
    ("height_px", "width_px", "box"),
    [
        *((64, 96, 8), (384, 192, 8), (256, 385, 16), (512, 768, 16)),
        (160, 1120, 16),  # 32 would leave 5 rows, and SSIM looks at 7
        *((32, 800, 4), (27, 96, 8)),  # 8 would leave 4 rows, 4 leaves 8; nothing helps 27
    ],
)
def test_boxes_are_doubled_until_no_side_of_a_small_frame_is_longer_than_48_while_ssim_has_room(
    outputs: RunOutputs, height_px: int, width_px: int, box: int
) -> None:
    assert default_box_px(height_px, width_px) == box
    frames = torch.full((1, height_px, width_px, 3), 7, dtype=torch.uint8)
    reduced = reduce_outputs(replace(outputs, video_frames=frames))
    assert reduced.small_frames.shape == (1, -(-height_px // box), -(-width_px // box), 3)


def test_reduced_outputs_are_read_back_as_they_were_written(tmp_path: Path, outputs: RunOutputs) -> None:
    reduced = reduce_outputs(outputs)
    write_reduced(tmp_path, reduced)
    found = read_reduced(tmp_path.joinpath, 24.0, 48000)
    assert found.frame_shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert torch.equal(found.key_frames, outputs.video_frames[[0, 2, 4]])
    for name in ("frame_sha256", "small_frames", "audio_waveform", "video_latent", "audio_latent"):
        assert torch.equal(getattr(found, name), getattr(reduced, name)), name
    assert load_file(tmp_path / REDUCED_FILE)["audio_waveform"].dtype == torch.bfloat16
    diff = compare_reduced(found, reduced)
    assert diff.findings == () and values(diff, "outputs.bit_equal.frames", "outputs.bit_equal.audio") == [1.0, 1.0]


def test_a_waveform_that_bf16_cannot_hold_stays_in_fp32(tmp_path: Path, outputs: RunOutputs) -> None:
    wave = outputs.audio_waveform + 1e-5
    write_reduced(tmp_path, reduce_outputs(replace(outputs, audio_waveform=wave)))
    assert torch.equal(read_reduced(tmp_path.joinpath, 24.0, 48000).audio_waveform, wave)


def test_every_metric_is_there_for_equal_runs_but_the_flicker_of_key_frames(outputs: RunOutputs) -> None:
    diff = compare_reduced(reduce_outputs(outputs), reduce_outputs(outputs))
    of_outputs = {name for name in METRICS if level_of(name) == "outputs"}
    assert of_outputs - set(diff.metrics) == {
        "frames.flicker.max",
        "frames.flicker.mean",
        "taps.bit_different",  # of traces, which outputs are not
    }
    assert set(diff.metrics) <= set(METRICS)
    assert values(diff, "frames.psnr_db.min", "small_frames.psnr_db.min") == [math.inf, math.inf]


def test_one_changed_bit_of_a_frame_that_is_not_kept_breaks_bit_equality_alone(outputs: RunOutputs) -> None:
    diff = compare_reduced(reduce_outputs(outputs), changed(outputs, frame=1, row=0))
    assert values(diff, "outputs.bit_equal.frames", "frames.max_abs") == [0.0, 0.0]
    diff = compare_reduced(reduce_outputs(outputs), changed(outputs, frame=2, row=0))
    assert values(diff, "outputs.bit_equal.frames", "frames.max_abs") == [0.0, 1.0]


def test_a_defect_in_a_frame_that_is_not_kept_moves_its_small_frame(outputs: RunOutputs) -> None:
    frames = outputs.video_frames.clone()
    frames[3] = 255 - frames[3]
    diff = compare_reduced(reduce_outputs(outputs), reduce_outputs(replace(outputs, video_frames=frames)))
    assert diff.metrics["frames.psnr_db.min"] == math.inf and diff.metrics["small_frames.psnr_db.min"] < 30
    assert diff.frames.psnr_db.index(min(diff.frames.psnr_db)) == 3


def test_other_counts_or_sizes_are_findings_and_nan(outputs: RunOutputs) -> None:
    for frames, code in (
        (outputs.video_frames[:4], "missing_frame"),
        (outputs.video_frames[:, :56], "shape_mismatch"),
    ):
        diff = compare_reduced(reduce_outputs(outputs), reduce_outputs(replace(outputs, video_frames=frames)))
        assert code in {finding.code for finding in diff.findings}
        assert all(math.isnan(value) for value in values(diff, "frames.psnr_db.min", "small_frames.ssim.mean"))
        assert diff.metrics["outputs.bit_equal.frames"] == 0.0


def test_frames_of_no_kind_are_refused(outputs: RunOutputs) -> None:
    with pytest.raises(RunError, match=r"\(0, 8, 8, 3\)"):
        reduce_outputs(replace(outputs, video_frames=torch.zeros(0, 8, 8, 3, dtype=torch.uint8)))


def test_a_key_frame_that_was_replaced_resized_or_is_no_picture_is_refused(tmp_path: Path, outputs: RunOutputs) -> None:
    write_reduced(tmp_path, reduce_outputs(outputs))
    path = tmp_path / KEY_FRAME_FILES[1]
    other = outputs.video_frames[1].numpy()
    for picture, complaint in (
        (Image.fromarray(other), "is not frame 2 of its run"),
        (Image.fromarray(other).resize((2000, 1000)), "picture of 2000 x 1000"),
        (Image.fromarray(other).convert("L"), "is a L picture"),
    ):
        picture.save(path)
        with pytest.raises(RunError, match=complaint):
            read_reduced(tmp_path.joinpath, 24.0, 48000)
    Image.fromarray(other[:59]).save(path)  # as many boxes, the last of them cut
    with pytest.raises(RunError, match="have different sizes"):
        read_reduced(tmp_path.joinpath, 24.0, 48000)
    path.write_bytes(b"GIF89a")
    with pytest.raises(RunError, match="cannot be read"):
        read_reduced(tmp_path.joinpath, 24.0, 48000)


def test_a_reduced_file_of_another_form_is_refused(tmp_path: Path, outputs: RunOutputs) -> None:
    write_reduced(tmp_path, reduce_outputs(outputs))
    good = load_file(tmp_path / REDUCED_FILE)
    for bad in (
        {**good, "frame_sha256": good["frame_sha256"][:3]},
        {**good, "small_frames": good["small_frames"].float()},
        {name: tensor for name, tensor in good.items() if name != "video_latent"},
    ):
        save_file(bad, tmp_path / REDUCED_FILE)
        with pytest.raises(RunError, match=r"reduced\.safetensors"):
            read_reduced(tmp_path.joinpath, 24.0, 48000)


def one_stage(steps: int) -> tuple[StagePlan, ...]:
    guider = Guider()
    return (
        StagePlan(scope="", height=64, width=96, steps=steps, sigmas=None, video=guider, audio=guider, guided=True),
    )


def test_what_a_golden_keeps_of_one_stage_is_named_as_in_goldens_there_are() -> None:
    outside = "text/* connector/* image/* init/* decode/* denoise/*/x0/* denoise/*/guided/* denoise/*/latent/*"
    blocks = [f"denoise/{step:03d}/*/block/{block:02d}/*" for step in (0, 2, 4) for block in (0, 8, 9)]
    assert kept_taps(one_stage(5), 9) == " ".join((outside, *blocks))


@pytest.mark.parametrize(
    ("tap", "kept"),
    [
        ("denoise/007/cond/block/03/video/ff", True),  # the last of eight, whose middle is 4
        ("denoise/005/cond/block/03/video/ff", False),
        ("upsample/latent", True),
        ("stage2/image/0/latent", True),
        ("stage2/init/video", True),
        ("stage2/denoise/001/latent/audio", True),
        ("stage2/denoise/002/cond/x0/video", True),
        ("stage2/denoise/002/cond/block/00/video/ff", True),
        ("stage2/denoise/002/cond/block/01/video/ff", False),
        ("stage2/denoise/003/cond/block/00/video/ff", False),
        ("decode/frames", True),
    ],
)
def test_of_two_stages_each_keeps_its_own_steps(tap: str, kept: bool, micro_case: Callable[..., Case]) -> None:
    two = micro_case(
        {
            "pipeline": "distilled",
            "request.width": 64,
            "request.num_inference_steps": 8,
            "guidance.video": {},
            "guidance.audio": {},
        }
    )
    assert chosen(tap, kept_taps(two.plans, 3)) is kept


def test_of_frames_of_more_than_a_megapixel_a_window_of_the_middle_one_is_kept(
    tmp_path: Path, outputs: RunOutputs
) -> None:
    height, width = 1000, 1054
    frames = torch.arange(3 * height * width * 3).remainder(251).reshape(3, height, width, 3).to(torch.uint8)
    reduced = reduce_outputs(replace(outputs, video_frames=frames))
    assert reduced.key_frame_places == (1,)
    assert torch.equal(reduced.key_frames, frames[1:2, 250:750, 263:790])  # half of either side, in the middle
    write_reduced(tmp_path, reduced)
    assert {path.name for path in tmp_path.iterdir()} == {REDUCED_FILE, MIDDLE_FRAME_FILE}
    found = read_reduced(tmp_path.joinpath, 24.0, 48000)
    assert found.frame_shape == (3, height, width, 3) and found.key_frame_places == (1,)
    assert torch.equal(found.key_frames, reduced.key_frames)
    for place in ((2, 500, 500, 0), (1, 249, 500, 0)):  # of another frame, and beside the window
        other = frames.clone()
        other[place] ^= 1
        diff = compare_reduced(found, reduce_outputs(replace(outputs, video_frames=other)))
        assert values(diff, "outputs.bit_equal.frames", "frames.max_abs") == [0.0, 0.0]
    frames[1, 250, 263, 0] ^= 1
    diff = compare_reduced(found, reduce_outputs(replace(outputs, video_frames=frames)))
    assert values(diff, "outputs.bit_equal.frames", "frames.max_abs") == [0.0, 1.0]
    for size in ("1000x2108", "1000x1054 ", "-1x5", "99999x99999", "100x105"):
        write_tensors(tmp_path / REDUCED_FILE, load_file(tmp_path / REDUCED_FILE), {"frame_size": size})
        with pytest.raises(RunError, match=r"is of frames of|picture of 527 x 500"):
            read_reduced(tmp_path.joinpath, 24.0, 48000)
    write_tensors(tmp_path / REDUCED_FILE, load_file(tmp_path / REDUCED_FILE))  # whole, there would be three
    with pytest.raises(RunError, match="frame_first"):
        read_reduced(tmp_path.joinpath, 24.0, 48000)


@pytest.mark.parametrize(
    ("tap", "kept"),
    [
        ("text/pos/hidden", True),
        ("denoise/007/latent/video", True),
        ("denoise/007/uncond/x0/audio", True),
        ("denoise/007/cond/block/08/video/out", False),
        ("denoise/000/cond/block/03/video/out", False),
        ("denoise/000/cond/block/00/video/ff", True),
        ("denoise/015/uncond/block/40/audio/out", True),
        ("denoise/029/isolated/block/47/video/ff", True),
        ("denoise/029/isolated/block/48/video/ff", False),
        ("decode/waveform", True),
    ],
)
def test_sketches_of_all_taps_outside_blocks_are_kept_and_of_every_eighth_block_at_three_steps(
    tap: str, kept: bool
) -> None:
    assert chosen(tap, kept_taps(one_stage(30), 47)) is kept


def test_places_of_short_clips_and_runs() -> None:
    assert (spread(1), spread(2), spread(121)) == ((0, 0, 0), (0, 1, 1), (0, 60, 120))


def table(pattern: str | None = "*", complete: bool = True) -> SketchTable:
    names = [f"denoise/{step:03d}/cond/block/{block:02d}/video/ff" for step in range(4) for block in (7, 8)]
    return SketchTable(
        buckets=16,
        pattern=pattern,
        complete=complete,
        names=names,
        shapes=[(row + 1,) for row in range(8)],
        dtypes=["bfloat16"] * 8,
        floats=torch.arange(8 * 19, dtype=torch.float32),
        integers=torch.arange(8 * 3),
    )


def test_a_trace_is_reduced_to_rows_that_stay_as_they_are_and_the_bits_of_all(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    write_trace(source, table())
    write_reduced_trace(read_trace(source), target, one_stage(4), num_blocks=None)
    whole, reduced = read_trace(source), read_trace(target)
    assert list(reduced) == [f"denoise/{step:03d}/cond/block/08/video/ff" for step in (0, 2, 3)]
    assert dict(reduced.bits) == dict(whole.bits) and len(reduced.bits) == 8
    for name in reduced:
        assert (reduced[name].checksum, reduced[name].shape) == (whole[name].checksum, whole[name].shape)
        assert torch.equal(reduced[name].buckets, whole[name].buckets)
    assert reduced.pattern == kept_taps(one_stage(4), 8)


@pytest.mark.parametrize("bad", [table(pattern="decode/*"), table(complete=False)])
def test_a_trace_that_is_not_whole_is_not_reduced(tmp_path: Path, bad: SketchTable) -> None:
    write_trace(tmp_path, bad)
    with pytest.raises(RunError, match="not a whole trace"):
        write_reduced_trace(read_trace(tmp_path), tmp_path, one_stage(4), num_blocks=None)


def test_blocks_that_the_model_has_and_a_pattern_left_out_are_missed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_trace(source, table(pattern=kept_taps(one_stage(4), 8)))
    with pytest.raises(RunError, match="not a whole trace"):  # of a run, the bits of every tap are wanted
        write_reduced_trace(read_trace(source), tmp_path, one_stage(4), num_blocks=9)
    with pytest.raises(RunError, match="not a whole trace"):
        write_reduced_trace(read_trace(source), tmp_path, one_stage(4), num_blocks=17, thin=True)
    write_reduced_trace(read_trace(source), tmp_path, one_stage(4), num_blocks=9, thin=True)
    assert read_trace(tmp_path).pattern == kept_taps(one_stage(4), 8)
