"""Speed of the comparators on outputs of the default request: 121 frames of 768 x 512, five seconds of sound.

`make bench` runs this and prints each cost as a ratio to a peer, beside its budget. GB/s counts the bytes of both
tensors of a pair, each once.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parity.diff import audio, frames, tensors

SSIM_FRAMES = 5  # frames that the peer measures in a round


def clip_pair() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two clips whose every frame differs, so that none takes the short way of equal frames."""
    generator = np.random.default_rng(0)
    reference = generator.integers(4, 252, (121, 512, 768, 3), dtype=np.uint8)
    candidate = reference.copy()
    candidate += generator.integers(0, 4, (1, 512, 768, 3), dtype=np.uint8)
    return reference, candidate


def test_all_frame_metrics_of_a_pair(by_turns: Any) -> None:
    """PSNR, SSIM, absolute difference and flicker of each of the 121 frames, beside another SSIM alone."""
    from skimage.metrics import structural_similarity  # here, to stay out of the memory that is measured below

    reference, candidate = clip_pair()

    def peer() -> None:
        for one, other in zip(reference[:SSIM_FRAMES], candidate[:SSIM_FRAMES], strict=True):
            structural_similarity(one, other, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5)

    diff = by_turns(
        lambda: frames.compare(reference, candidate),
        peer,
        what="all metrics of 121 frames",
        peer_name="scikit-image's SSIM of each frame",
        budget=1.0,
        rounds=2,
        share=SSIM_FRAMES / len(reference),
    )
    assert len(diff.ssim) == 121


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_all_metrics_of_two_tensors_of_200_mb(by_turns: Any, dtype: torch.dtype) -> None:
    """Everything `tensors.compare` yields, on a pair of activations of the transformer's width.

    The budget is 1 GB/s for 16-bit floats and twice that for float32, where a plain read runs at 30 GB/s.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (8 // dtype.itemsize, 6144, 4096)
    reference = torch.randn(shape, generator=generator).to(dtype)
    candidate = (reference.float() + 0.01 * torch.randn(shape, generator=generator)).to(dtype)
    words = reference.view(torch.float32), candidate.view(torch.float32)  # torch sums 16-bit floats slowly
    diff = by_turns(
        lambda: tensors.compare(reference, candidate),
        lambda: [side.sum() for side in words],
        what=f"all metrics of two {str(dtype).removeprefix('torch.')} tensors",
        peer_name="torch.sum of the same bytes",
        budget=30.0 if dtype.itemsize == 2 else 15.0,
        rounds=9,
        moved_bytes=2 * reference.nbytes,
    )
    assert diff.value_mismatches > 0


def test_all_audio_metrics_of_a_pair(by_turns: Any) -> None:
    """Stereo at 48 kHz: levels, spectra and lags."""
    generator = torch.Generator().manual_seed(0)
    reference = 0.1 * torch.randn(2, 5 * 48_000, generator=generator)
    candidate = reference + 0.01 * torch.randn(2, 5 * 48_000, generator=generator)
    window = torch.hann_window(2048)
    diff = by_turns(
        lambda: audio.compare(reference, candidate, rate_reference_hz=48_000, rate_candidate_hz=48_000),
        lambda: [torch.stft(side, 2048, window=window, return_complex=True) for side in (reference, candidate)],
        what="all metrics of 5 s of stereo",
        peer_name="one spectrogram of both sides",
        budget=100.0,
        rounds=5,
    )
    assert len(diff.snr_db) == 2


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


def test_peak_memory_of_a_process_that_compares_a_pair(benchmark: Any, note: Any) -> None:
    """The whole process counts: interpreter, torch, both clips and what the comparison adds."""

    def probe() -> int:
        done = subprocess.run([sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True)
        return int(done.stdout)

    peak_bytes = benchmark.pedantic(probe, rounds=1)
    clips_bytes = 2 * 121 * 512 * 768 * 3
    note(
        what="peak memory of a process that compares",
        measured=f"{peak_bytes / 2**20:.0f} MiB",
        ratio=peak_bytes / clips_bytes,
        peer=f"both clips, {clips_bytes / 2**20:.0f} MiB",
        budget=2**30 / clips_bytes,
    )
