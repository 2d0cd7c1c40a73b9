"""The time of loading native's parts: building and checking them, making or reading their tensors.

    python bench/loading.py --out FILE [--weights forge:full:0] [--device cuda] [--repeats 3]

Every part is loaded `--repeats` times and freed again, so that none stands beside another; the middle is kept. Beside
them stands a plain fill, the least that any way of making tensors has to write.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from gpu import header, options
from torch import Tensor, nn

from parity.runs.execute import device_named
from parity.runs.golden import find_case
from parity.trace.atomic import write_json_atomic
from runners.forge.weights import weights_named
from runners.ltx23.pipeline import ModelComponents
from runners.ltx23.pipeline_config import PipelineConfig
from runners.model_files import ModelFiles, TensorSource
from runners.releases import reference_of

PARTS = ("connectors", "video_encoder", "transformer", "video_decoder", "audio_decoder", "vocoder")
FILL_BYTES = 1 << 28


class TimedTensorSource:
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


def loaded(
    make: Callable[[], object], sources: tuple[TimedTensorSource, ...], device: torch.device
) -> dict[str, float]:
    """Seconds of loading a part, of them in its source, and the bytes that came from there."""
    for source in sources:
        source.took_s, source.bytes = 0.0, 0
    with clock(device) as spent:
        part = make()
    del part
    gc.collect()  # transformers' modules refer to each other in cycles
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        "load_s": spent[0],
        "tensors_s": sum(source.took_s for source in sources),
        "bytes": sum(source.bytes for source in sources),
    }


def middle(samples: list[dict[str, float]]) -> dict[str, float]:
    """The median of each number."""
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


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
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = device_named(arguments.device)
    with clock(device) as prepared:
        weights = weights_named(arguments.weights, device)
    sources = TimedTensorSource(weights.model, device), TimedTensorSource(weights.gemma, device)
    files = ModelFiles(
        config=weights.config,
        model=sources[0],
        gemma_config=weights.gemma_config,
        gemma=sources[1],
        gemma_folder=weights.gemma_folder,
    )
    config = PipelineConfig(dtype=torch.bfloat16, reference=reference_of(find_case(arguments.case).reference, {}))
    checked_s: list[float] = []
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in ("text_encoder", *PARTS)}
    for _ in range(arguments.repeats):  # afresh: a run loads each part into the structure that it was checked with
        with clock(device) as checked:
            components = ModelComponents(files, config, device)
        checked_s += checked
        samples["text_encoder"].append(loaded(components.text_encoder, sources, device))
        for name in PARTS:
            samples[name].append(loaded(partial(components.build, name, nn.Module), sources, device))
    parts = {name: middle(found) for name, found in samples.items()}
    for name, part in parts.items():
        print(
            f"{name:<14} {part['bytes'] / 1e9:6.2f} GB  {part['load_s']:6.3f} s, "
            f"{part['tensors_s']:6.3f} s of them its tensors"
        )
    result = {
        "case": arguments.case,
        "prepare_s": prepared[0],
        "check_s": statistics.median(checked_s),
        "parts": parts,
        "samples": samples,
        "fill_bytes_per_s": fill_rate(device, arguments.repeats),
    }
    write_json_atomic(Path(arguments.out), {**header("loading", arguments, device), **result})


if __name__ == "__main__":
    main()
