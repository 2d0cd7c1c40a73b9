"""Run folders: what is written is read back, and a stranger's folder is refused before it does harm."""

import json
import os
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from parity.runs import outputs
from parity.runs.folder import (
    DATA_FILES,
    MAX_RUN_BYTES,
    OUTPUTS_FILE,
    RUN_FILE,
    SCHEMA_VERSION,
    TRACE_FILE,
    VIDEO_FILE,
    case_id_in,
    dtype_label,
    holds_run,
    read_run,
    write_run,
)
from parity.runs.outputs import read_outputs
from parity.trace.checksums import CHECKSUMS_FILE
from runners.case import Case
from runners.errors import RunError
from runners.files import sha256_of
from runners.protocol import Outcome
from tests.parity.conftest import outcome_of

LeaveRun = Callable[..., Path]
FRAMES, HEIGHT, WIDTH = 9, 64, 96


def outcome(**changes: Any) -> Outcome:
    generator = torch.Generator().manual_seed(0)
    values: dict[str, Any] = {
        "video_frames": torch.randint(0, 256, (FRAMES, HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8),
        "audio_waveform": torch.rand(2, 4800, generator=generator) - 0.5,
        "video_latent": torch.randn(1, 128, 2, 2, 3, generator=generator).bfloat16(),
        "audio_latent": torch.randn(1, 8, 7, 16, generator=generator).bfloat16(),
        "frame_rate": 29.97,
        "sample_rate_hz": 48000,
        "sigmas": torch.tensor([1.0, 0.5, 0.0]),
        "stage_s": {"denoising": 2.5},
        "step_s": [1.25, 1.25],
        "peak_bytes": 1 << 40,
        "details": {"disable_autocast": True, "note": "inf"},
    }
    return Outcome(**(values | changes))


@pytest.fixture
def write(tmp_path: Path, micro_case: Callable[..., Case]) -> Callable[..., Path]:
    def write_one(overrides: dict[str, Any] | None = None, **changes: Any) -> Path:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        write_run(
            folder,
            micro_case(overrides),
            outcome(**changes),
            runner="native",
            tier="exact",
            dtype="bf16",
            weights_hash="ab" * 32,
            model_version="2.3.0",
            environment={"torch": "2.13.0"},
            end_to_end_s=3.5,
            num_blocks=2,
            loras={},
        )
        return folder

    return write_one


def test_a_run_is_read_back_as_it_was_written(write: Callable[..., Path], pictures: Path) -> None:
    folder = write({"request.images": [{"path": "coffee.jpg"}], "request.prompt": "inf"})
    run = read_run(folder)
    record, outputs, wanted = run.manifest, run.outputs(), outcome()
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
        value = getattr(outputs, name)
        assert value.dtype == getattr(wanted, name).dtype and torch.equal(value, getattr(wanted, name))
    assert (outputs.frame_rate, outputs.sample_rate) == (29.97, 48000)
    assert run.case_id == "micro" and record.case["request"]["prompt"] == "inf" and "folder" not in record.case
    assert record.inputs == {"coffee.jpg": sha256_of(pictures / "coffee.jpg")}
    assert (record.runner, record.tier, record.dtype, record.reference) == ("native", "exact", "bf16", "1.0.0")
    assert record.sigmas == [1.0, 0.5, 0.0] and record.step_s == [1.25, 1.25] and record.stage_s == {"denoising": 2.5}
    assert record.details == {"disable_autocast": True, "note": "inf"} and record.peak_bytes == 1 << 40
    assert record.files.keys() == {OUTPUTS_FILE, VIDEO_FILE} and not run.has("trace.safetensors")


def test_outputs_that_cannot_be_written_are_an_error_in_one_sentence(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(outputs, "save_file", full_disk)
    with pytest.raises(RunError, match=rf"{OUTPUTS_FILE} cannot be written .* make room or take another place"):
        write()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_every_file_of_a_run_has_the_permissions_that_the_umask_leaves(
    umask: int, mode: int, write: Callable[..., Path]
) -> None:
    before = os.umask(umask)
    try:
        folder = write()
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert found == dict.fromkeys((OUTPUTS_FILE, VIDEO_FILE, RUN_FILE), mode)  # safetensors itself makes 0600


@pytest.mark.parametrize("reference", ["/some/folder", "..", ".", "", "../../x", "9.9.9", "1.0.0\n", "1.1.2", "custom"])
def test_a_run_follows_a_known_release_and_the_one_that_its_case_says(
    reference: str, write: Callable[..., Path]
) -> None:
    folder = write()
    record = json.loads((folder / RUN_FILE).read_text())
    (folder / RUN_FILE).write_text(json.dumps({**record, "reference": reference}))
    with pytest.raises(RunError, match=r"wanted the same, and one of 1\.0\.0, 1\.1\.2, 1\.2\.0, custom"):
        read_run(folder)
    case = {**record["case"], "reference": reference}
    (folder / RUN_FILE).write_text(json.dumps({**record, "reference": reference, "case": case}))
    if reference in ("1.1.2", "custom"):
        assert read_run(folder).manifest.reference == reference
        return
    with pytest.raises(RunError, match="says that the run follows"):
        read_run(folder)


def test_a_folder_holds_a_run_only_if_its_record_says_so(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write()
    assert holds_run(folder) and case_id_in(folder) == "micro"
    (folder / OUTPUTS_FILE).unlink()
    assert holds_run(folder), "a damaged one can be replaced, too"
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / RUN_FILE).symlink_to(folder / RUN_FILE)
    assert not holds_run(tmp_path / "link") and not holds_run(tmp_path / "linked")
    for text in ("{}", "[]", '{"case": {"id": "micro"}}', "not JSON", '{"scripts": {"start": "node"}}'):
        (folder / RUN_FILE).write_text(text)
        assert not holds_run(folder), text


def test_a_run_with_nan_in_it_is_written_and_read(write: Callable[..., Path]) -> None:
    nan = float("nan")
    folder = write(audio_waveform=torch.full((2, 4800), nan), sigmas=torch.tensor([nan, float("inf"), 0.0]))
    run = read_run(folder)
    assert [str(sigma) for sigma in run.manifest.sigmas] == ["nan", "inf", "0.0"]
    assert run.outputs().audio_waveform.isnan().all()


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / RUN_FILE).read_text())
        change(document)
        (folder / RUN_FILE).write_text(json.dumps(document))

    return spoil


def text(content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content

    def spoil(folder: Path) -> None:
        (folder / RUN_FILE).write_bytes(data)

    return spoil


def one_changed_bit(folder: Path) -> None:
    data = bytearray((folder / OUTPUTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / OUTPUTS_FILE).write_bytes(data)


def linked(name: str) -> Callable[[Path], None]:
    """The same bytes, but outside and behind a link."""

    def spoil(folder: Path) -> None:
        shutil.move(folder / name, folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return spoil


def pipe_instead(folder: Path) -> None:
    (folder / OUTPUTS_FILE).unlink()
    os.mkfifo(folder / OUTPUTS_FILE)


def list_checksums(folder: Path) -> None:
    (folder / CHECKSUMS_FILE).write_bytes(b"")
    edit(lambda d: d["files"].update({CHECKSUMS_FILE: sha256_of(folder / CHECKSUMS_FILE)}))(folder)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / RUN_FILE).unlink(), r"is not a run: it has no run.json"),
        (lambda folder: shutil.rmtree(folder), r"There is no folder"),
        (linked(RUN_FILE), r"is not a run"),
        (text(""), r"is not valid JSON"),
        (text("{" * 3), r"is not valid JSON"),
        (text("[" * 100_000), r"is not valid JSON"),
        (text(b"\xff\xfe"), r"cannot be read as UTF-8 text"),
        (text("9" * 5000), r"is not valid JSON"),
        (text(b" " * (MAX_RUN_BYTES + 1)), r"has more than 4194304 bytes"),
        (text("[]"), r"has schema version None; wanted 1"),
        (edit(lambda d: d.update(schema_version=SCHEMA_VERSION + 1)), r"has schema version 2; wanted 1"),
        (edit(lambda d: d.pop("schema_version")), r"has schema version None"),
        (edit(lambda d: d.pop("sigmas")), r"does not have its form"),
        (edit(lambda d: d.update(sigmas="nan")), r"does not have its form.*sigmas"),
        (edit(lambda d: d.update(surprise=1)), r"does not have its form.*surprise"),
        (edit(lambda d: d.update(step_s=["fast"])), r"does not have its form.*step_s"),
        (edit(lambda d: d.update(frame_rate="nan")), r"does not have its form.*frame_rate"),
        (edit(lambda d: d.update(frame_rate=float("nan"))), r"NaN is not a JSON number"),
        (edit(lambda d: d.update(frame_rate=0)), r"says 0.0 frames"),
        (edit(lambda d: d.update(num_blocks=101)), r"says the model has 101 blocks; wanted 1 to 100"),
        (edit(lambda d: d.update(runner="Native ")), r"says its runner is 'Native '; a runner's name is of small"),
        (edit(lambda d: d.update(runner="x" * 41)), r"says its runner is 'x{41}'; .* 40 at most"),
        (edit(lambda d: d.update(runner="x" * 3_000_000)), r"says its runner is 'x{60}'; .* 40 at most"),
        (edit(lambda d: d.update(runner="")), r"says its runner is ''"),
        (edit(lambda d: d.update(created_utc="2" * 101)), r"has a created_utc of 101 characters; wanted 100 at most"),
        (edit(lambda d: d.update(model_version="2" * 101)), r"has a model_version of 101 characters"),
        (edit(lambda d: d.update(step_s=[0.1] * 3)), r"has times of 3 steps; its case has 2"),
        (edit(lambda d: d.update(peak_bytes=-1)), r"says that -1 bytes were used at most; wanted 0 or more"),
        (edit(lambda d: d["details"].update(taps_offered=3)), r"offers the taps 3; wanted a list of patterns"),
        (edit(lambda d: d["details"].update(taps_offered=["*", 3])), r"offers the taps \['\*', 3\]"),
        (edit(lambda d: d.update(sample_rate_hz=-1)), r"-1 samples a second"),
        (edit(lambda d: d["case"].update(id="../../etc")), r"has the case id '../../etc', which is none"),
        (edit(lambda d: d["case"].pop("id")), r"has the case id None"),
        (edit(lambda d: d["files"].update({"../secret": "0"})), r"lists files .*'../secret'"),
        (edit(lambda d: d["files"].update({"/etc/passwd": "0"})), r"lists files .*'/etc/passwd'"),
        (edit(lambda d: d["files"].pop(OUTPUTS_FILE)), r"lists files \['video.mp4'\]; wanted outputs.safetensors"),
        (edit(lambda d: d["files"].update({"trace.safetensors": "0"})), r"trace.safetensors is missing"),
        (lambda folder: (folder / OUTPUTS_FILE).unlink(), r"outputs.safetensors is missing"),
        (linked(OUTPUTS_FILE), r"outputs.safetensors is missing"),
        (lambda folder: (folder / CHECKSUMS_FILE).write_bytes(b""), r"checksums.safetensors is no part of this run"),
        (list_checksums, r"checksums.safetensors is no part of this run"),
        (pipe_instead, r"outputs.safetensors is missing"),
        (one_changed_bit, r"does not have the hash that run.json gives"),
    ],
)
def test_a_damaged_or_hostile_run_is_refused(
    spoil: Callable[[Path], None], sentence: str, write: Callable[..., Path]
) -> None:
    folder = write()
    read_run(folder)
    spoil(folder)
    with pytest.raises(RunError, match=sentence):
        read_run(folder)


def outputs_with(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    made = outcome()
    names = ("video_frames", "audio_waveform", "video_latent", "audio_latent")
    tensors = {name: getattr(made, name) for name in names} | changes
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (outputs_with(audio_latent=None), r"holds \['audio_waveform', 'video_frames', 'video_latent'\]; wanted"),
        (outputs_with(more=torch.ones(1)), r"holds .*'more'"),
        (outputs_with(video_frames=torch.zeros(9, 64, 96, 3)), r"video_frames in .* is F32 .*; wanted 4 axes of U8"),
        (outputs_with(video_frames=torch.zeros(9, 64, 96, dtype=torch.uint8)), r"wanted 4 axes of U8"),
        (outputs_with(video_frames=torch.zeros(9, 64, 96, 4, dtype=torch.uint8)), r"wanted \(F, H, W, 3\)"),
        (outputs_with(audio_waveform=torch.zeros(2, 9).bfloat16()), r"audio_waveform in .* wanted 2 axes of F32"),
        (outputs_with(video_latent=torch.zeros(1, 128, 2, 2, 3, dtype=torch.int8)), r"wanted 5 axes of BF16 or F32"),
    ],
)
def test_outputs_of_another_form_are_refused(tensors: dict[str, torch.Tensor], sentence: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / OUTPUTS_FILE)
    with pytest.raises(RunError, match=sentence):
        read_outputs(tmp_path / OUTPUTS_FILE)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 0), struct.pack("<Q", 100) + b"{}"],
    ids=["empty", "one byte", "huge header", "no header", "cut"],
)
def test_a_header_that_claims_more_than_there_is_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / OUTPUTS_FILE).write_bytes(data)
    with pytest.raises(RunError, match="is not a whole safetensors file"):
        read_outputs(tmp_path / OUTPUTS_FILE)


def test_a_file_whose_tensors_are_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / OUTPUTS_FILE
    save_file(outputs_with(), path)
    assert read_outputs(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match="is not a whole safetensors file"):
        read_outputs(path)


def test_the_file_says_its_rates_too(write: Callable[..., Path]) -> None:
    from safetensors import safe_open

    folder = write()
    with safe_open(folder / OUTPUTS_FILE, framework="pt") as file:
        assert file.metadata() == {"frame_rate": "29.97", "sample_rate": "48000"}
    assert load_file(folder / OUTPUTS_FILE).keys() == outputs_with().keys()
    assert set(DATA_FILES) >= {path.name for path in folder.iterdir()} - {RUN_FILE}


def test_dtypes_have_the_names_of_the_command_line() -> None:
    assert [dtype_label(dtype) for dtype in (torch.bfloat16, torch.float32)] == ["bf16", "fp32"]


def test_a_known_runner_owes_what_we_know_of_it_and_only_another_is_taken_at_its_word(leave_run: LeaveRun) -> None:
    offered = {"details": {"taps_offered": ["decode/*", "init/video"]}}
    assert read_run(leave_run("known", runner="native", **offered)).offers == "*"
    assert read_run(leave_run("bare", runner="sglang", blocks=None, details={"taps_offered": []})).offers == "*"
    assert read_run(leave_run("own", runner="engine", **offered)).offers == "decode/* init/video"
    assert read_run(leave_run("silent", runner="engine")).offers == "*"  # its trace shows that it has internals
    assert read_run(leave_run("none", runner="engine", blocks=None)).offers == ""


def test_a_run_has_an_id_of_its_own_and_one_without_is_still_read(leave_run: LeaveRun) -> None:
    one, other = leave_run("one"), leave_run("other")
    assert len({read_run(one).manifest.run_id, read_run(other).manifest.run_id, ""}) == 3
    document = json.loads((one / RUN_FILE).read_text())
    del document["run_id"]
    (one / RUN_FILE).write_text(json.dumps(document))
    assert read_run(one).manifest.run_id == ""


def test_a_file_that_is_exchanged_after_it_was_hashed_is_not_read(leave_run: LeaveRun) -> None:
    def darker(made: dict[str, Any]) -> None:
        made["video_frames"] = made["video_frames"] // 2

    run = read_run(leave_run("mine"))
    wanted = outcome_of(5, 24, 40, 2).video_frames
    other = leave_run("other", first="denoise/000/latent/video", error=0.5, change=darker)
    for name in (*run.manifest.files, RUN_FILE):
        (other / name).replace(run.folder / name)
    assert torch.equal(run.outputs().video_frames, wanted)
    assert dict(run.trace.bits) == dict(read_run(leave_run("again")).trace.bits)
    assert run.sha256 != sha256_of(run.folder / RUN_FILE)


def test_a_file_that_is_written_into_after_it_was_hashed_is_refused(leave_run: LeaveRun) -> None:
    run = read_run(leave_run("mine"))
    with (run.folder / OUTPUTS_FILE).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(RunError, match=r"outputs\.safetensors was changed while it was read; the run is damaged"):
        run.outputs()


def test_a_run_that_never_listed_a_trace_has_none(leave_run: LeaveRun) -> None:
    run = read_run(leave_run("mine", blocks=None))
    (leave_run("other") / TRACE_FILE).replace(run.folder / TRACE_FILE)  # which run.json does not vouch for
    with pytest.raises(RunError, match=r"holds no trace\.safetensors; record it again with taps on"):
        _ = run.trace
