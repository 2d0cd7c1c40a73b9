"""Runs written by hand: small outputs and a whole trace, without a model."""

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import pytest
import torch
from PIL import Image

from parity.runs.folder import write_run
from parity.runs.store import ENVIRONMENT_VARIABLE
from parity.taps.dataflow import Dataflow
from parity.taps.pattern import chosen
from parity.trace.file import SketchTable, write_trace
from runners.case import parse_case
from runners.ltx23.stages import audio_decoding, video_decoding
from runners.protocol import Outcome

LeaveRun = Callable[..., Path]
SaveWav = Callable[..., Path]
Ending = Callable[[], AbstractContextManager[None]]
BUCKETS = 16
ENVIRONMENT = {"torch": "2.13.0", "device": "cpu", "cpu": "Xeon", "threads": 2, "python": "3.11.7"}


def outcome_of(frames: int, height: int, width: int, steps: int) -> Outcome:
    """Outputs of a seeded generator: another number for every element, 0.05 s of sound."""
    generator = torch.Generator().manual_seed(7)
    return Outcome(
        video_frames=torch.randint(0, 200, (frames, height, width, 3), generator=generator, dtype=torch.uint8),
        audio_waveform=torch.randn(2, 2400, generator=generator) * 0.1,
        video_latent=torch.randn(1, 128, 2, 3, 4, generator=generator).bfloat16(),
        audio_latent=torch.randn(1, 8, 5, 16, generator=generator).bfloat16(),
        frame_rate=45.0,
        sample_rate_hz=48000,
        sigmas=torch.linspace(1, 0, steps + 1),
        stage_s={"load": 1.0, "denoising": 2.0},
        step_s=[1.5] + [0.5] * (steps - 1),
        peak_bytes=3 << 30,
        details={},
    )


def trace_of(flow: Dataflow, first: str | None, error: float, extra: str | None) -> SketchTable:
    """A trace that departs at `first` and in everything computed from it, by a relative L2 of `error`."""
    generator = torch.Generator().manual_seed(11)
    dirty: set[str] = set()
    for tap in flow.taps:
        if tap == first or any(name in dirty for name in flow.inputs_of(tap)):
            dirty.add(tap)
    names = [*flow.taps, *([extra] if extra else [])]
    buckets = torch.randn(len(names), BUCKETS, generator=generator)
    noise = torch.randn(len(names), BUCKETS, generator=generator)
    wrong = torch.tensor([tap in dirty for tap in names])
    size = error * buckets.norm(dim=1) / noise.norm(dim=1)
    buckets = torch.where(wrong[:, None], buckets + noise * size[:, None], buckets)
    norm = buckets.norm(dim=1, keepdim=True)
    floats = torch.cat((buckets, norm, norm, torch.zeros_like(norm)), dim=1)  # as of one large element
    integers = torch.zeros(len(names), 3, dtype=torch.int64)
    integers[:, 0] = wrong * crc32(f"{first} {error}".encode())  # the checksum
    return SketchTable(
        buckets=BUCKETS,
        names=names,
        shapes=[(4,)] * len(names),
        dtypes=["bfloat16"] * len(names),
        floats=floats,
        integers=integers,
    )


def part_of(table: SketchTable, pattern: str | None, padded_text: bool = False) -> SketchTable:
    """The table of a trace as it would be, had it been recorded by a pattern, or when text taps still held padding."""
    rows = [row for row, name in enumerate(table.names) if chosen(name, pattern)]
    return SketchTable(
        buckets=table.buckets,
        pattern=pattern,
        padded_text=padded_text,
        names=[table.names[row] for row in rows],
        shapes=[table.shapes[row] for row in rows],
        dtypes=[table.dtypes[row] for row in rows],
        floats=table.floats[rows],
        integers=table.integers[rows],
    )


@pytest.fixture(scope="session")
def ending_with_denoising() -> Ending:
    """Native runs decode nothing while inside: black frames, silence. On AVX2 it costs most."""
    silence, rate_hz = torch.zeros(2, 480), 48000

    def black(latent: torch.Tensor) -> Iterator[torch.Tensor]:
        frames, rows, columns = latent.shape[2:]
        yield torch.zeros(8 * (frames - 1) + 1, 32 * rows, 32 * columns, 3, dtype=torch.uint8)

    @contextmanager
    def inside() -> Iterator[None]:
        with (
            patch.object(video_decoding, "decode_frames", lambda decoder, latent, *_: black(latent)),
            patch.object(audio_decoding, "decode_audio", lambda *_: (silence, rate_hz)),
        ):
            yield

    return inside


@pytest.fixture
def save_wav(tmp_path: Path) -> SaveWav:
    """Write (C, N) samples as a WAV file, byte by byte."""

    def save(
        name: str, waveform: torch.Tensor, rate_hz: int, *, bits: int = 32, code: int = 3, mask: int | None = None
    ) -> Path:
        flat = waveform.T.double()  # (N, C)
        if code == 3:
            data = flat.numpy().astype(f"<f{bits // 8}").tobytes()
        else:
            whole = (flat * 2 ** (bits - 1)).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).long().flatten()
            data = b"".join(int(one).to_bytes(bits // 8, "little", signed=True) for one in whole)
        channels = waveform.shape[0]
        block = channels * bits // 8
        form = struct.pack("<HHIIHH", code if mask is None else 0xFFFE, channels, rate_hz, rate_hz * block, block, bits)
        if mask is not None:
            form += struct.pack("<HHIH", 22, bits, mask, code) + bytes.fromhex("000000001000800000aa00389b71")
        chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"LIST" + struct.pack("<I", 3) + b"abc\0"
        chunks += b"data" + struct.pack("<I", len(data)) + data
        path = tmp_path / name
        path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
        return path

    return save


@pytest.fixture
def save_frames(tmp_path: Path) -> Callable[..., Path]:
    """Write (F, H, W, 3) frames as PNGs whose names have no leading zeros."""

    def save(name: str, frames: torch.Tensor) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame.numpy()).save(folder / f"out{index}.png")
        return folder

    return save


@pytest.fixture
def checkout(tmp_path: Path, micro_case_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that has the micro case, no golden and no limits yet, and a store of its own."""
    for folder in ("golden/micro", "thresholds"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "golden" / "micro" / "case.toml").write_text(micro_case_text)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def leave_run(tmp_path: Path, micro_case_text: str) -> LeaveRun:
    """Write a run folder; every keyword changes one thing of an official run of the micro case."""

    def leave(
        name: str,
        *,
        change: Callable[[dict[str, Any]], None] | None = None,  # of the outputs, in place, by name
        first: str | None = None,
        error: float = 0.5,
        extra: str | None = None,
        blocks: int | None = 3,
        runner: str = "official",
        tier: str = "exact",
        environment: dict[str, Any] | None = None,
        prompt: str | None = None,
        stage_s: dict[str, float] | None = None,
        steps: int = 2,
        frames: tuple[int, int, int] = (5, 24, 40),
        model_version: str = "2.3.0",
        details: dict[str, Any] | None = None,
        pattern: str | None = None,  # which taps were recorded
        num_blocks: int | None = None,
        reference: str = "1.0.0",
        padded_text: bool = False,
    ) -> Path:
        overrides: dict[str, Any] = {"request.num_inference_steps": steps, "reference": reference}
        if prompt is not None:
            overrides["request.prompt"] = prompt
        case = parse_case(micro_case_text, tmp_path, overrides)
        made = vars(outcome_of(*frames, steps))
        if change is not None:
            change(made)
        made["details"] = {**made["details"], **(details or {})}
        made["stage_s"] = {**made["stage_s"], **(stage_s or {})}
        folder = tmp_path / name
        folder.mkdir()
        if blocks is not None:
            write_trace(folder, part_of(trace_of(Dataflow(case, blocks), first, error, extra), pattern, padded_text))
        write_run(
            folder,
            case,
            Outcome(**made),
            runner=runner,
            tier=tier,
            dtype="bf16",
            weights_hash="ab" * 32,
            model_version=model_version,
            environment={**ENVIRONMENT, **(environment or {})},
            end_to_end_s=4.0 + 1e-9 * len(list(tmp_path.iterdir())),  # as a clock would have it: never twice the same
            num_blocks=num_blocks,
            loras={},
        )
        return folder

    return leave
