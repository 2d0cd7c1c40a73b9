"""The speed of sketching a tap: bytes read each second, beside the fastest plain read this machine manages.

    python bench/sketch.py [--device cuda] [--megabytes 50] [--repeats 50]

On CUDA, tensors rotate through more memory than the cache holds, and times are medians between device events. The plain
read is `torch.sum` into float32 and `torch.amax`, whichever is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from parity.trace.sketch import FLOAT_STATISTICS, INTEGER_STATISTICS, sketch_into, sketch_torch_into


def median_s(work: Callable[[Tensor], object], tensors: list[Tensor], repeats: int) -> float:
    """Return the median time of `work` on one tensor, in seconds."""
    for tensor in tensors[:3]:
        work(tensor)
    if tensors[0].is_cuda:
        events = []
        for turn in range(repeats):
            start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
            torch.cuda._sleep(400_000)  # type: ignore[no-untyped-call]  # the host gets ahead meanwhile: no launch time
            start.record()
            work(tensors[turn % len(tensors)])
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        return statistics.median(float(start.elapsed_time(end)) for start, end in events) / 1e3
    times = []
    for turn in range(repeats):
        begin = time.perf_counter()
        work(tensors[turn % len(tensors)])
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Print one line for each way of reading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--megabytes", type=float, default=50.0)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--buckets", type=int, default=64)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    elements = int(arguments.megabytes * 1e6 / 2) // 8 * 8
    copies = 12 if device.type == "cuda" else 1
    tensors = [torch.randn(elements, device=device).to(torch.bfloat16) for _ in range(copies)]
    floats = torch.empty(arguments.buckets + FLOAT_STATISTICS, device=device)
    integers = torch.empty(INTEGER_STATISTICS, dtype=torch.int64, device=device)
    ways: dict[str, Callable[[Tensor], object]] = {
        "plain read: sum": lambda tensor: tensor.sum(dtype=torch.float32),
        "plain read: amax": lambda tensor: tensor.amax(),
        "sketch": lambda tensor: sketch_into(tensor, floats, integers),
        "sketch, torch form": lambda tensor: sketch_torch_into(tensor, floats, integers),
    }
    seconds = {}
    for name, work in ways.items():
        seconds[name] = median_s(work, tensors, arguments.repeats)
        print(f"{name:<20} {seconds[name] * 1e6:10.1f} us {elements * 2 / seconds[name] / 1e9:8.1f} GB/s")
    read = min(seconds["plain read: sum"], seconds["plain read: amax"])
    print(f"sketch runs at {read / seconds['sketch']:.0%} of the plain read")


if __name__ == "__main__":
    main()
