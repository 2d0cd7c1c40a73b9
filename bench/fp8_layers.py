"""The products of the fp8 tiers, derived: what fp8 alone costs each of them, what it saves, and what is taken.

    python bench/fp8_layers.py --out FILE --choice TOML [--case ID] [--at 0,7,15]

At each step of `--at`, each block gets the streams of a fast step and computes them with one product in fp8, and with
none, and both are held to the block in fp32: the squared errors that fp8 adds are summed over steps. What it saves is
timed on the block. Errors of products add up in squares, so one factor, from a step with all of them in fp8, turns a
sum into the error of the guided x0. The products with most time for a squared error are taken while that stays within a
multiple of the exact tier's own error; then the step is measured, and the allowance shrunk by what it exceeds.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu import header, median_s, options, shortened
from ladder import computed, in_float32, relative_l2, wide_batch, wide_state
from torch import nn

from parity.runs.execute import device_named
from parity.trace.atomic import write_bytes_atomic, write_json_atomic
from runners.clock import Quiet
from runners.forge.weights import weights_named
from runners.ltx23 import pipeline
from runners.ltx23.block import AudioVideoBlock
from runners.ltx23.fast.block import BlockLanes, FastBlock, LaneStream, StreamStep
from runners.ltx23.fast.fp8 import Fp8Product
from runners.ltx23.fast.fp8_choice import Fp8Choice
from runners.ltx23.fast.products import LARGE, PlainProduct, joined, maker
from runners.ltx23.fast.side_stream import SideStream
from runners.ltx23.latents import LatentState
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage, Pair, advance
from runners.ltx23.stages.fast_denoising import FastDenoisingStage
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions

TIERS = {"fp8": 1.0, "fp8x2": 2.0}  # the most error that each may have, in multiples of the exact tier's
ATTEMPTS = 4
LANES = 4  # at which products are timed
Product = tuple[str, int]  # name, block


class MeasuredBlock:
    """A block that measures itself on the way."""

    def __init__(self, layers: AudioVideoBlock, index: int, found: dict[str, Any]) -> None:
        self._layers, self._index, self._found = layers, index, found
        self._plain = FastBlock(layers, maker(frozenset(), keep=True))

    def forward(
        self,
        video: LaneStream,
        audio: LaneStream,
        at_video: StreamStep,
        at_audio: StreamStep,
        lanes: BlockLanes,
        side: SideStream,
    ) -> None:
        """The block as the fast tier computes it, after its errors were noted."""
        given = video, audio
        wide = FastBlock(copy.deepcopy(self._layers).float(), maker(frozenset(), keep=True))
        exact = tuple(LaneStream(x=one.x.clone(), prepared=one.prepared.float()) for one in given)
        wide.forward(*exact, *(replace(at, text=at.text.float()) for at in (at_video, at_audio)), lanes, side)
        del wide
        squared: dict[str, float] = {}
        for name in ("", *LARGE):
            block = self._plain if not name else FastBlock(self._layers, maker(frozenset({name}), keep=True))
            ours = tuple(LaneStream(x=one.x.clone(), prepared=one.prepared.clone()) for one in given)
            block.forward(*ours, at_video, at_audio, lanes, side)
            squared[name] = sum(relative_l2(one.x, its.x) ** 2 for one, its in zip(ours, exact, strict=True))
        for name in LARGE:
            added = self._found["added"].setdefault(name, {})
            added[str(self._index)] = added.get(str(self._index), 0.0) + max(0.0, squared[name] - squared[""])
        self._plain.forward(*given, at_video, at_audio, lanes, side)


class ChoosingStage(DenoisingStage):
    """Denoises in the exact tier; measures and chooses on the way."""

    arguments: argparse.Namespace
    found: dict[str, Any]

    def _loop(self, batch: Batch, video: LatentState, audio: LatentState) -> tuple[LatentState, LatentState]:
        assert batch.sigmas is not None
        at = [int(step) for step in self.arguments.at.split(",")]
        exact = DenoisingStage(self.transformer)
        oracle = DenoisingStage(in_float32(self.transformer))
        sigmas, changes = batch.sigmas.tolist(), batch.sigmas.diff().tolist()
        on_device = batch.sigmas.to(batch.device)
        steps: list[tuple[tuple[Any, ...], Pair]] = []
        guided: Pair | None = None
        for index in range(max(at) + 1):
            given = index, batch, video, audio, on_device[index], guided
            if index in at:
                wide = computed(oracle, index, wide_batch(batch), wide_state(video), wide_state(audio), *given[4:])
                steps.append((given, wide))
            guided = computed(exact, *given)
            video = advance(video, guided[0], sigmas[index], changes[index])
            audio = advance(audio, guided[1], sigmas[index], changes[index])
        del oracle
        self._measure(steps)
        self._choose(steps)
        return video, audio

    def _measure(self, steps: Sequence[tuple[tuple[Any, ...], Pair]]) -> None:
        stage = FastDenoisingStage(self.transformer, keep=True)
        layers = [block for block in self.transformer.transformer_blocks if isinstance(block, AudioVideoBlock)]
        for given, _ in steps:
            measured = [MeasuredBlock(one, at, self.found) for at, one in enumerate(layers)]
            stage.fast.blocks = measured  # type: ignore[assignment]  # computes the same
            computed(stage, *given)

    def _errors(self, stage: DenoisingStage, steps: Sequence[tuple[tuple[Any, ...], Pair]]) -> list[list[float]]:
        """For each step the errors of both modalities."""
        return [
            [relative_l2(ours, its) for ours, its in zip(computed(stage, *given), wide, strict=True)]
            for given, wide in steps
        ]

    def _choose(self, steps: Sequence[tuple[tuple[Any, ...], Pair]]) -> None:
        blocks = len(self.transformer.transformer_blocks)
        own = self._errors(DenoisingStage(self.transformer), steps)
        fast = self._errors(FastDenoisingStage(self.transformer, keep=True), steps)
        every = Fp8Choice(dict.fromkeys(LARGE, frozenset(range(blocks))))
        all_of_them = self._errors(FastDenoisingStage(self.transformer, every, keep=True), steps)
        added: dict[Product, float] = {
            (name, int(block)): error
            for name, by_block in self.found["added"].items()
            for block, error in by_block.items()
        }
        first = self.transformer.transformer_blocks[0]
        assert isinstance(first, AudioVideoBlock)
        tokens = steps[0][0][2].latent.shape[1] * LANES
        saved = saved_s(first, tokens, steps[0][0][1].device, self.arguments.rounds)
        # Squared errors of the guided video by the sum of all that is added.
        factor = sum(a[0] ** 2 - f[0] ** 2 for a, f in zip(all_of_them, fast, strict=True)) / sum(added.values())
        self.found |= {"exact": own, "fast": fast, "all": all_of_them, "saved_s": saved, "factor": factor}
        by_worth = sorted(added, key=lambda product: -saved[product[0]] / max(added[product], 1e-30))
        for tier, multiple in TIERS.items():
            allowance = sum((multiple * o[0]) ** 2 - f[0] ** 2 for o, f in zip(own, fast, strict=True)) / factor
            for attempt in range(ATTEMPTS):
                chosen = taken(by_worth, added, saved, allowance)
                found = self._errors(FastDenoisingStage(self.transformer, chosen, keep=True), steps)
                ratio = max(e / o for one, its in zip(found, own, strict=True) for e, o in zip(one, its, strict=True))
                count = sum(len(blocks) for blocks in chosen.blocks.values())
                print(f"{tier}: {count} of {len(added)} products, {ratio:.3f} times the exact tier's error", flush=True)
                if ratio <= multiple:
                    break
                room = [
                    ((multiple * o[0]) ** 2 - f[0] ** 2, e[0] ** 2 - f[0] ** 2)
                    for o, f, e in zip(own, fast, found, strict=True)
                ]
                allowance *= 0.98 * min(wanted / got for wanted, got in room) if attempt < 2 else 0.8
            self.found["tiers"][tier] = {
                "attempts": attempt + 1,
                "within": ratio <= multiple,
                "multiple": ratio,
                "errors": found,
                "products": {name: sorted(blocks) for name, blocks in chosen.blocks.items()},
            }


def saved_s(layers: AudioVideoBlock, tokens: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds that each product saves in fp8, for so many tokens of all lanes: medians by turns."""
    if device.type != "cuda":
        return dict.fromkeys(LARGE, 1.0)  # a rehearsal without a GPU: all are worth the same
    saved: dict[str, float] = {}

    def timing(name: str, parts: Sequence[nn.Linear]) -> PlainProduct:
        plain = joined(parts)
        if name in LARGE:
            fp8 = Fp8Product.of(plain.weight, plain.bias)
            given = [torch.randn(tokens, parts[0].in_features, device=device).to(plain.weight.dtype) for _ in range(2)]
            times: dict[bool, list[float]] = {True: [], False: []}
            for turn in range(6):
                times[turn % 2 == 0].append(median_s(plain if turn % 2 else fp8, given, repeats))
            saved[name] = statistics.median(times[False]) - statistics.median(times[True])
        return plain

    FastBlock(layers, timing)
    return saved


def taken(
    order: Sequence[Product], added: dict[Product, float], saved: dict[str, float], allowance: float
) -> Fp8Choice:
    """The products that fit into an allowance of squared error, in order of their worth."""
    chosen: dict[str, set[int]] = {}
    for product in order:
        if saved[product[0]] > 0 and added[product] <= allowance:
            allowance -= added[product]
            chosen.setdefault(product[0], set()).add(product[1])
    return Fp8Choice({name: frozenset(chosen[name]) for name in sorted(chosen)})


def written(found: dict[str, Any], arguments: argparse.Namespace, environment: dict[str, Any]) -> str:
    """The choice as `fp8_layers.toml`."""
    lines = [
        "# Written by bench/fp8_layers.py, which measured what stands beside it in docs/measurements; do not edit.",
        f"# {arguments.case} on {environment.get('device_name', environment['cpu'])}, torch {environment['torch']}",
    ]
    for tier, choice in found["tiers"].items():
        reason = (
            f"error of the guided x0 {choice['multiple']:.3f} times the exact tier's, wanted at most {TIERS[tier]}: "
            f"worst of video and audio at steps {arguments.at}"
        )
        lines += ["", f"[tiers.{tier}]", f"reason = {json.dumps(reason)}", "", f"[tiers.{tier}.products]"]
        lines += [f"{json.dumps(name)} = {blocks}" for name, blocks in choice["products"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, choose and save."""
    parser = options(__doc__)
    parser.add_argument("--at", default="0,7,15")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--choice", required=True)
    arguments = parser.parse_args()
    device = device_named(arguments.device)
    case, weights = shortened(arguments.case, 30), weights_named(arguments.weights, device)
    ChoosingStage.arguments = arguments
    ChoosingStage.found = {"added": {}, "tiers": {}}
    with patch.object(pipeline, "DenoisingStage", ChoosingStage):
        NativeRunner(weights, RunOptions(device=device)).run(case, Quiet())
    document = {**header("fp8_layers", arguments, device), "case": case.id, **ChoosingStage.found}
    write_json_atomic(Path(arguments.out), document)
    text = written(ChoosingStage.found, arguments, document["environment"])
    write_bytes_atomic(Path(arguments.choice), text.encode())


if __name__ == "__main__":
    main()
