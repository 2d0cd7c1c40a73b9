"""Native's tiers over whole runs: final latents, frames and sound, held to the same request denoised in fp32.

    python bench/whole_runs.py --out FILE [--case ID] [--tiers exact,fast]

Text, picture and decoders are the same in every run, in the model's dtype; the steps are each tier's own, or those of
the model in fp32, one block at a time so that it fits. Each run is also held to the exact tier's, whose bits are the
official ones: that is what a viewer of the official clip would see change.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu import header, options
from ladder import FP8_CAST, OTHER_KERNEL, in_float32, stage_of, wide_batch, wide_state

from parity.diff.outputs import compare_outputs
from parity.runs.execute import device_named, run_to_folder
from parity.runs.folder import Run, read_run
from parity.runs.golden import find_case
from parity.trace.atomic import write_json_atomic
from runners.case import Case
from runners.clock import Quiet
from runners.forge.weights import weights_named
from runners.ltx23 import pipeline
from runners.ltx23.latents import LatentState
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import Weights

IN_FP32 = "fp32"
SHOWN = (
    *("video_latent.relative_l2", "audio_latent.relative_l2", "frames.psnr_db.mean", "frames.psnr_db.min"),
    *("frames.ssim.min", "audio.snr_db.min", "av.offset_ms.abs"),
)


class InFloat32Stage(DenoisingStage):
    """Denoises in fp32 what is given and handed on in the model's dtype."""

    def _loop(self, batch: Batch, video: LatentState, audio: LatentState) -> tuple[LatentState, LatentState]:
        oracle = DenoisingStage(in_float32(self.transformer))
        ends = oracle._loop(wide_batch(batch), wide_state(video), wide_state(audio))
        video, audio = (replace(end, latent=end.latent.to(batch.config.dtype)) for end in ends)
        return video, audio


def run_of(name: str, case: Case, weights: Weights, device: torch.device, out: Path) -> Run:
    """A whole run whose denoising is that of a tier, or of the model in fp32."""
    run, make = RunOptions(device=device), InFloat32Stage if name == IN_FP32 else lambda model: stage_of(name, model)
    with patch.object(pipeline, "DenoisingStage", make):
        run_to_folder(NativeRunner(weights, run), case, weights, run, out, Quiet())
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return read_run(out)


def main() -> None:
    """Run, compare and save."""
    parser = options(__doc__)
    parser.add_argument("--tiers", default=f"exact,{OTHER_KERNEL},fast,fp8,fp8x2,{FP8_CAST}")
    arguments: argparse.Namespace = parser.parse_args()
    device = device_named(arguments.device)
    case, weights = find_case(arguments.case), weights_named(arguments.weights, device)
    found: dict[str, Any] = {**header("whole_runs", arguments, device), "case": case.id, "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        exact = run_of("exact", case, weights, device, Path(folder) / "exact")
        oracle = run_of(IN_FP32, case, weights, device, Path(folder) / IN_FP32)
        for name in arguments.tiers.split(","):
            ours = exact if name == "exact" else run_of(name, case, weights, device, Path(folder) / name)
            metrics = {
                held_to: compare_outputs(its.outputs(), ours.outputs()).metrics
                for held_to, its in (("fp32", oracle), ("exact", exact))
            }
            found["runs"][name] = {
                held_to: {metric: values[metric] for metric in SHOWN} for held_to, values in metrics.items()
            }
            print(f"{name:<12} {found['runs'][name]}", flush=True)
            write_json_atomic(Path(arguments.out), found)


if __name__ == "__main__":
    main()
