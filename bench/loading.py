"""Where the time of loading native's parts goes: building and checking them, making or reading their tensors.

    python bench/loading.py --out FILE [--weights forge:full:0] [--device cuda] [--repeats 3]

Every part is loaded `--repeats` times and freed again, so that none stands beside another; the middle is kept. Beside
them stands a plain fill, the least that any way of making tensors has to write.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu import header
from torch import Tensor, nn

from parity.trace.atomic import write_json_atomic
from parity.trace.golden import find_case
from parity.trace.record import device_named
from runners.forge.weights import weights_named
from runners.ltx23.gemma import load_gemma
from runners.ltx23.loading import TensorSource
from runners.ltx23.pipeline import Components
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.reference import reference_of
from runners.native import model_files

PARTS = ("connectors", "video_encoder", "transformer", "video_decoder", "audio_decoder", "vocoder")
FILL_BYTES = 1 << 28


class Clocked:
    """A source of tensors that sums up what reading from it took, and how much it was."""

    def __init__(self, source: TensorSource, device: torch.device) -> None:
        self.shapes = source.shapes
        self.source, self.device = source, device
        self.took_s, self.bytes = 0.0, 0

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """As the source; the clock waits for the device."""
        with clock(self.device) as spent:
            tensors = self.source.read(names, device)
        self.took_s += spent[0]
        self.bytes += sum(tensor.nbytes for tensor in tensors.values())
        return tensors


@contextmanager
def clock(device: torch.device) -> Iterator[list[float]]:
    """Yields: a list that holds the seconds of the block, with all the device's work, once it has ended."""
    spent: list[float] = []
    start_s = time.perf_counter()
    yield spent
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    spent.append(time.perf_counter() - start_s)


def loaded(make: Callable[[], nn.Module], sources: tuple[Clocked, ...], device: torch.device) -> dict[str, float]:
    """Seconds of loading a part, of them in its source, and the bytes that came from there."""
    for source in sources:
        source.took_s, source.bytes = 0.0, 0
    with clock(device) as spent:
        module = make()
    del module
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        "load_s": spent[0],
        "tensors_s": sum(source.took_s for source in sources),
        "bytes": sum(source.bytes for source in sources),
    }


def fill_rate(device: torch.device, repeats: int) -> float:
    """Bytes a second of writing one value everywhere."""
    tensor = torch.empty(FILL_BYTES, dtype=torch.uint8, device=device)
    times = []
    for _ in range(repeats + 1):
        with clock(device) as spent:
            tensor.fill_(1)
        times.append(spent[0])
    return FILL_BYTES / statistics.median(times[1:])


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--weights", default="forge:full:0")
    parser.add_argument("--case", default="ltx_2.3_one_stage_ti2v")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = device_named(arguments.device)
    with clock(device) as prepared:
        weights = weights_named(arguments.weights, device)
    files = model_files(weights)
    model, gemma = Clocked(files.model, device), Clocked(files.gemma, device)
    files = replace(files, model=model, gemma=gemma)
    config = PipelineConfig(dtype=torch.bfloat16, reference=reference_of(find_case(arguments.case).reference, {}))
    with clock(device) as checked:
        components = Components(files, config, device)

    def text_encoder() -> nn.Module:
        encoder: nn.Module = load_gemma(files.gemma_config, files.gemma_folder, gemma, device, torch.bfloat16)
        return encoder

    ways: dict[str, Callable[[], nn.Module]] = {"text_encoder": text_encoder}
    ways |= {name: lambda name=name: components.build(name, nn.Module) for name in PARTS}  # type: ignore[misc]
    parts: dict[str, Any] = {}
    for name, make in ways.items():
        samples = [loaded(make, (model, gemma), device) for _ in range(arguments.repeats)]
        parts[name] = {key: statistics.median(one[key] for one in samples) for key in samples[0]}
        parts[name]["samples_s"] = [one["load_s"] for one in samples]
        gigabytes, load_s, tensors_s = parts[name]["bytes"] / 1e9, parts[name]["load_s"], parts[name]["tensors_s"]
        print(f"{name:<14} {gigabytes:6.2f} GB  {load_s:6.3f} s, {tensors_s:6.3f} s of them its tensors", flush=True)
    result = {
        "case": arguments.case,
        "prepare_s": prepared[0],
        "check_s": checked[0],
        "parts": parts,
        "fill_bytes_per_s": fill_rate(device, arguments.repeats),
    }
    write_json_atomic(Path(arguments.out), {**header("loading", arguments, device), **result})


if __name__ == "__main__":
    main()
