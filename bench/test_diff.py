"""Speed of the comparators on outputs of the default request: 121 frames of 768 x 512, five seconds of sound.

`make bench` runs this. The limits are for two cores; the fastest round is held against them, since other work on the
machine only ever adds time. GB/s counts the bytes of both tensors of a pair, each once.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parity.diff import audio, frames, tensors

FRAMES_LIMIT_S = 25.0
TENSOR_LIMIT_GB_PER_S = 1.0
MEMORY_LIMIT_BYTES = 2**30


def clip_pair() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two clips whose every frame differs, so that none takes the short way of equal frames."""
    generator = np.random.default_rng(0)
    reference = generator.integers(4, 252, (121, 512, 768, 3), dtype=np.uint8)
    candidate = reference.copy()
    candidate += generator.integers(0, 4, (1, 512, 768, 3), dtype=np.uint8)
    return reference, candidate


def test_all_frame_metrics_of_a_pair(benchmark: Any) -> None:
    """PSNR, SSIM, absolute difference and flicker of each of the 121 frames."""
    reference, candidate = clip_pair()
    diff = benchmark.pedantic(frames.compare, args=(reference, candidate), rounds=2)
    assert len(diff.ssim) == 121
    assert benchmark.stats.stats.min <= FRAMES_LIMIT_S


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_all_metrics_of_two_tensors_of_200_mb(benchmark: Any, dtype: torch.dtype) -> None:
    """Everything `tensors.compare` yields, on a pair of activations of the transformer's width."""
    generator = torch.Generator().manual_seed(0)
    shape = (8 // dtype.itemsize, 6144, 4096)
    reference = torch.randn(shape, generator=generator).to(dtype)
    candidate = (reference.float() + 0.01 * torch.randn(shape, generator=generator)).to(dtype)
    diff = benchmark.pedantic(tensors.compare, args=(reference, candidate), rounds=9, warmup_rounds=1)
    assert diff.value_mismatches > 0
    gb_per_s = 2 * reference.nbytes / 1e9 / benchmark.stats.stats.min
    benchmark.extra_info["gb_per_s"] = gb_per_s
    assert gb_per_s >= TENSOR_LIMIT_GB_PER_S


def test_all_audio_metrics_of_a_pair(benchmark: Any) -> None:
    """Stereo at 48 kHz: levels, spectra and lags."""
    generator = torch.Generator().manual_seed(0)
    reference = 0.1 * torch.randn(2, 5 * 48_000, generator=generator)
    candidate = reference + 0.01 * torch.randn(2, 5 * 48_000, generator=generator)

    def compare() -> audio.AudioDiff:
        return audio.compare(reference, candidate, rate_reference_hz=48_000, rate_candidate_hz=48_000)

    assert len(benchmark.pedantic(compare, rounds=3).snr_db) == 2


MEMORY_PROBE = """
import pathlib, re, sys
sys.path.insert(0, "bench")
import test_diff, torch
from parity.diff import frames, tensors
reference, candidate = test_diff.clip_pair()
frames.compare(reference, candidate)
tensors.compare(torch.from_numpy(reference), torch.from_numpy(candidate))
# not getrusage, whose peak is inherited from the process that forked this one
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]))
"""


def test_peak_memory_of_a_process_that_compares_a_pair(benchmark: Any) -> None:
    """The whole process counts: interpreter, torch, both clips (285 MB) and what the comparison adds."""

    def probe() -> int:
        done = subprocess.run([sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True)
        return int(done.stdout)

    peak_bytes = benchmark.pedantic(probe, rounds=1)
    benchmark.extra_info["peak_mib"] = peak_bytes / 2**20
    assert peak_bytes < MEMORY_LIMIT_BYTES
