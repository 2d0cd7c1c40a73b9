"""Repeatability of the float32 vocoder of the later releases on a device, and the side nearer to the truth.

    python bench/vocoder.py --out FILE --official-root DIR [--case ID] [--repeats 3]

Its official and its native form get one and the same spectrogram and weights, several times, under four settings: as it
comes, with cuDNN's deterministic kernels only, without TF32, and with neither. Kept for each setting are the largest
differences between repeats of one form and between the two forms, their relative L2 from the same network in float64,
and the kernels that each used.
"""

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gpu import header, options
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from parity.runs.execute import device_named
from parity.runs.golden import find_case
from parity.trace.atomic import write_json_atomic
from runners.errors import RunnerError
from runners.forge.weights import weights_named
from runners.ltx23.bandwidth_extension import ExtendedVocoder, vocoder_from_config
from runners.ltx23.latents import audio_frames
from runners.ltx23.loading import load
from runners.ltx23.vocoder_config import AUDIO_CHANNELS, MEL_BINS
from runners.official.compat import prepare_imports
from runners.official.files import official_code
from runners.releases import ReleaseBehaviours

SETTINGS = {
    "as it comes": (False, True),
    "deterministic": (True, True),
    "without TF32": (False, False),
    "deterministic, without TF32": (True, False),
}  # cudnn.deterministic, cudnn.allow_tf32
Form = Callable[[Tensor], Tensor]


@contextmanager
def cudnn(deterministic: bool, tf32: bool) -> Iterator[None]:
    """While inside, cuDNN chooses among these kernels."""
    flags = torch.backends.cudnn
    before = flags.deterministic, flags.allow_tf32
    flags.deterministic, flags.allow_tf32 = deterministic, tf32
    try:
        yield
    finally:
        flags.deterministic, flags.allow_tf32 = before


def forms(arguments: argparse.Namespace, device: torch.device) -> tuple[Form, Form, Form]:
    """The official vocoder, the native one, and the native network in float64, all on the same weights."""
    weights = weights_named(arguments.weights, device)
    section = weights.config["vocoder"]
    code = official_code(Path(arguments.official_root))
    if code.release not in ("1.1.2", "1.2.0"):
        raise RunnerError(f"{arguments.official_root} is {code.release}; wanted a release whose vocoder is float32.")
    sys.path[:0] = map(str, code.sources)
    prepare_imports()
    maker = importlib.import_module("ltx_core.model.audio_vae").VocoderConfigurator
    if code.release == "1.1.2":
        built = maker.from_config({"vocoder": section})
    else:
        built = maker.from_metadata({"config": {"vocoder": section}})
    kept = torch.bfloat16 if device.type == "cuda" else torch.float32  # a CPU has no autocast to float32

    def native(reference: ReleaseBehaviours, dtype: torch.dtype) -> ExtendedVocoder:
        with torch.device("meta"):
            empty = vocoder_from_config(section, reference)
        if not isinstance(empty, ExtendedVocoder):
            raise RunnerError("This checkpoint's vocoder has no extension; no release computes it in float32.")
        return load(empty, ExtendedVocoder.CHECKPOINT_PREFIXES, weights.model, device, dtype)

    ours = native(ReleaseBehaviours(vocoder_fp32=True), kept)
    theirs: nn.Module = built.to(device).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    true = native(ReleaseBehaviours(), torch.float64)
    return theirs, ours, lambda mel: true(mel.double())


def kernels(form: Form, mel: Tensor) -> Counter[str]:
    """Number of times each kernel of the device ran."""
    if mel.device.type != "cuda":
        return Counter()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        form(mel)
        torch.cuda.synchronize()
    return Counter({event.key: event.count for event in seen.key_averages()})


def farthest(waves: list[Tensor]) -> float:
    """The largest difference of any sample between the first and any other."""
    return max(float((wave.double() - waves[0].double()).abs().max()) for wave in waves)


def error(wave: Tensor, true: Tensor) -> float:
    """Relative L2."""
    return float(torch.linalg.vector_norm(wave.double() - true) / torch.linalg.vector_norm(true))


@torch.no_grad()
def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Every setting on one spectrogram of the case's length."""
    case = find_case(arguments.case)
    theirs, ours, true = forms(arguments, device)
    frames = 4 * audio_frames(case.request.num_frames, case.request.frame_rate) - 3
    noise = torch.randn(1, AUDIO_CHANNELS, frames, MEL_BINS, generator=torch.Generator().manual_seed(0))
    mel = noise.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    wanted = true(mel)
    found: dict[str, Any] = {"case": case.id, "spectrogram": list(mel.shape), "settings": {}}
    for name, flags in SETTINGS.items():
        with cudnn(*flags):
            official = [theirs(mel) for _ in range(arguments.repeats)]
            native = [ours(mel) for _ in range(arguments.repeats)]
            used = kernels(theirs, mel), kernels(ours, mel)
        found["settings"][name] = row = {
            "official_repeats": farthest(official),
            "native_repeats": farthest(native),
            "between": farthest([official[0], *native]),
            "official_to_float64": error(official[0], wanted),
            "native_to_float64": error(native[0], wanted),
            "kernels_of_both": dict(used[0] & used[1]),
            "official_kernels_only": dict(used[0] - used[1]),
            "native_kernels_only": dict(used[1] - used[0]),
        }
        shown = ", ".join(f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
        print(f"{name}: {shown}", flush=True)
    return found


def main() -> None:
    """Measure and save."""
    parser = options(__doc__)
    parser.set_defaults(case="release_1.2.0_ltx_2.3_one_stage_ti2v_25f")
    parser.add_argument("--official-root", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = device_named(arguments.device)
    found = measure(arguments, device)
    write_json_atomic(Path(arguments.out), {**header("vocoder", arguments, device), **found})


if __name__ == "__main__":
    main()
