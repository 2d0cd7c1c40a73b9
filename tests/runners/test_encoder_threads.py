"""The picture that a run compresses is the same on a machine of one core, of two and of many."""

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from runners.encoder_threads import ENCODER_THREADS, fixed_encoder_threads
from runners.ltx23.image import compression_round_trip
from runners.official.compat import prepare_imports

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # naming a GPU touches none
CRF = 33
HELD_TO_ONE_CORE = """
import hashlib, os, torch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from runners.encoder_threads import fixed_encoder_threads
from runners.ltx23.image import compression_round_trip
from tests.runners.test_encoder_threads import CRF, picture
for device in "cpu", "cuda":
    with fixed_encoder_threads(torch.device(device)):
        print(hashlib.sha256(compression_round_trip(picture(), CRF).tobytes()).hexdigest())
"""


def picture() -> NDArray[np.uint8]:
    """Ramps and noise, 256 x 384: large enough for x264 to share its rows between threads."""
    ramps = np.add.outer(np.arange(256) * 1.3, np.arange(384) * 0.7)[..., None] * np.array([1.0, 0.7, 1.9])
    noise = np.random.default_rng(3).integers(0, 60, (256, 384, 3))
    return ((ramps + noise) % 256).astype(np.uint8)


def encoded_on(threads: int) -> NDArray[np.uint8]:
    """The picture as PyAV alone makes it, encoded on so many threads and decoded again, uint8 (H, W, 3)."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(CRF), "preset": "veryfast"})
        stream.codec_context.thread_count = threads
        stream.height, stream.width = 256, 384
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        decoded: NDArray[np.uint8] = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return decoded


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_the_encoder_runs_on_the_threads_of_the_goldens(device: torch.device) -> None:
    with fixed_encoder_threads(device):
        inside = compression_round_trip(picture(), CRF)
    assert np.array_equal(inside, encoded_on(ENCODER_THREADS[device.type]))
    assert not np.array_equal(inside, encoded_on(1)), "the picture does not show the number of threads"


def test_the_official_encoder_is_told_too() -> None:
    prepare_imports()
    from ltx_pipelines.utils.media_io import preprocess

    with fixed_encoder_threads(CPU):
        assert np.array_equal(preprocess(picture(), CRF), compression_round_trip(picture(), CRF))
        assert np.array_equal(preprocess(picture(), CRF), encoded_on(2))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not hold processes to cores")
def test_a_process_held_to_one_core_makes_the_same_pictures() -> None:
    told = subprocess.run([sys.executable, "-c", HELD_TO_ONE_CORE], capture_output=True, text=True, check=True)
    wanted = [hashlib.sha256(encoded_on(threads).tobytes()).hexdigest() for threads in (2, 16)]
    assert told.stdout.split() == wanted


def test_reading_is_left_alone_and_a_device_without_goldens_keeps_the_encoders_choice() -> None:
    own_open: Callable[..., object] = av.open
    with fixed_encoder_threads(torch.device("mps")):
        assert av.open is own_open
    with pytest.raises(KeyboardInterrupt), fixed_encoder_threads(CPU):
        assert av.open is not own_open
        raise KeyboardInterrupt
    assert av.open is own_open
