"""The rate at which `parity identify` names exactly a native run's switches: random subsets, variants of the tiny case.

    python bench/identify_stress.py --weights DIR [--trials 60] [--seed 0] [--outputs-alone] [--out FILE.json]

Each trial draws a variant of golden/tiny_ti2v and a subset of all switches, runs the native model so and asks. The
answer is exact if every switch it claims to tell is right, and the subset it names has the run's outputs bit for bit:
then what it left untold changes no output. A trial that fails says what was named instead.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from parity.identify.behaviours import BATCHING, BEHAVIOURS, reference_at
from parity.identify.identification import identify
from parity.report.identification import identification_lines
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import RunOutputs, read_run
from parity.trace.atomic import write_bytes_atomic
from runners.case import Case, load_case
from runners.clock import Quiet
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

CPU = torch.device("cpu")
EXIF_ORIENTATION = 0x0112
PICTURE = {"path": "astronaut.png"}
SMALL: dict[str, Any] = {"request.height": 64, "request.width": 96, "request.num_inference_steps": 2}
PLAIN = {"cfg_scale": 1.0, "stg_scale": 0.0, "rescale_scale": 0.0, "modality_scale": 1.0, "stg_blocks": []}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "own negative prompt": {"request.negative_prompt": "blurry, silent"},
    "no picture": {"request.images": []},
    "strength 0.6": {"request.images": [{**PICTURE, "strength": 0.6}]},
    "keyframe": {"request.images": [{**PICTURE, "frame_idx": 8}]},
    "soft picture and keyframe": {
        "request.images": [{**PICTURE, "strength": 0.7}, {**PICTURE, "frame_idx": 9, "strength": 0.8}]
    },
    "picture lying on its side": {"request.images": [{"path": "turned.jpg", "strength": 0.9}]},
    "video skips": {"guidance.video.skip_step": 1},
    "audio skips": {"guidance.audio.skip_step": 2},
    "both skip": {"guidance.video.skip_step": 1, "guidance.audio.skip_step": 1},
    "89 frames": {**SMALL, "request.num_frames": 89},
    "832 pixels": {**SMALL, "request.width": 832, "request.height": 64},
    "no V2A": {"switches.skip_v2a_cross_attn_for_video_gt": True},
    "not guided": {"guidance.video": PLAIN, "guidance.audio": PLAIN},
}


@dataclass(frozen=True, kw_only=True)
class StressTrial:
    """One answer beside the truth."""

    variant: str
    truth: list[str]
    named: list[str]
    untold: dict[str, str]  # switch to reason
    wrong: list[str]
    same_outputs: bool  # of the named subset as of the true one
    answer: str
    confidence: str
    seconds: float

    @property
    def exact(self) -> bool:
        """True if the answer is right in all it says, and leaves out only what changes no output."""
        return not self.wrong and self.same_outputs


def main() -> None:
    """Run the trials and print a table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--trials", type=int, default=60)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--outputs-alone", action="store_true", help="Record no trace.")
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    draw = random.Random(given.seed)
    weights = WeightsFolder(given.weights)
    trials = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for original in (Path("golden/tiny_ti2v/case.toml"), Path("golden/pictures/astronaut.png")):
            shutil.copyfile(original, folder / original.name)
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        Image.open(folder / "astronaut.png").convert("RGB").crop((0, 0, 300, 200)).save(
            folder / "turned.jpg", exif=exif
        )
        for index in range(given.trials):
            name = list(VARIANTS)[index % len(VARIANTS)]
            case = load_case(folder / "case.toml", {"reference": "1.0.0", **VARIANTS[name]})
            truth = [switch for switch in BEHAVIOURS if switch not in BATCHING and draw.random() < 0.5]
            trial = tried(weights, case, name, truth, folder / f"run{index}", not given.outputs_alone)
            trials.append(trial)
            print(f"{index} {'exact' if trial.exact else 'WRONG'} {trial.seconds:.0f} s {name}: {truth}", flush=True)
            if not trial.exact:
                print(f"   named {trial.named}, wrong {trial.wrong}, {trial.answer}, {trial.confidence}", flush=True)
            if given.out:
                document = [{**vars(one), "exact": one.exact} for one in trials]
                write_bytes_atomic(given.out, json.dumps(document, indent=1).encode())
    table(trials)


def tried(weights: WeightsFolder, case: Case, variant: str, truth: list[str], out: Path, traced: bool) -> StressTrial:
    """Run, ask, and run once more with what was named."""
    start_s = time.perf_counter()
    run(weights, case, truth, out, traced)
    found = identify(read_run(out), case, weights, CPU)
    named = [name for name, one in found.decisions.items() if one.verdict in ("certain", "likely") and one.on]
    decisions = {name for name, one in found.decisions.items() if one.verdict in ("certain", "likely")}
    again = out.with_name(f"{out.name}-again")
    run(weights, case, named, again, False)
    return StressTrial(
        variant=variant,
        truth=truth,
        named=named,
        untold={one.switch.name: f"{one.verdict}: {one.reason}" for one in found.untold},
        wrong=sorted((set(named) ^ set(truth)) & decisions),
        same_outputs=equal(read_run(out).outputs(), read_run(again).outputs()),
        answer=identification_lines(found)[0],
        confidence=found.confidence,
        seconds=time.perf_counter() - start_s,
    )


def run(weights: WeightsFolder, case: Case, switches: list[str], out: Path, traced: bool) -> None:
    """A native run with these switches on."""
    options = RunOptions(device=CPU, behaviours=vars(reference_at(frozenset(switches))))
    recorded = writing_trace("*", "sketch") if traced else None
    run_to_folder(NativeRunner(weights, options), case, weights, options, out, Quiet(), recorded)


def equal(one: RunOutputs, other: RunOutputs) -> bool:
    """True if all outputs have equal bits."""
    names = ("video_frames", "audio_waveform", "video_latent", "audio_latent")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def table(trials: list[StressTrial]) -> None:
    """Print the counts by variant."""
    print(f"{'variant':28s} trials exact certain switches told, untold")
    for variant in VARIANTS:
        own = [trial for trial in trials if trial.variant == variant]
        if own:
            untold = Counter(name for trial in own for name in trial.untold)
            exact, certain = sum(trial.exact for trial in own), sum(trial.confidence == "certain" for trial in own)
            mean = sum(len(BEHAVIOURS) - len(trial.untold) for trial in own) / len(own)
            print(f"{variant:28s} {len(own):6d} {exact:5d} {certain:7d} {mean:.1f}; never: {always(untold, len(own))}")
    print(f"{sum(trial.exact for trial in trials)} of {len(trials)} exact")


def always(untold: "Counter[str]", trials: int) -> str:
    """The switches that no trial of a variant could tell."""
    return ", ".join(name for name, count in untold.items() if count == trials and name not in BATCHING) or "none"


if __name__ == "__main__":
    main()
