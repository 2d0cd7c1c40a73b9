"""The LoRAs of a case: found beside its file, on the command line or beside the checkpoint, and identified."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from runners.case import Case
from runners.checksum import WeightEntry, weight_entries, weights_hash
from runners.errors import CaseError
from runners.ltx23.lora import factor_keys
from runners.model_files import LoraSource, TensorSource
from runners.request import Lora
from runners.stages import PIPELINES
from runners.strict import fields_of
from runners.weights import TensorFiles, Weights


def loras_of(case: Case, weights: Weights) -> tuple[LoraSource, ...]:
    """The LoRAs of a case in the order of fusion, each held to the checkpoint's transformer.

    Raises: CaseError for a path that leaves the case's folder; CheckpointError for a file that is missing or damaged,
        matches no weight, or has factors of another shape.
    """
    found = []
    for lora in case.loras:
        place = case.lora_place(lora)
        source = TensorFiles([place]) if place.is_file() else weights.lora(lora.path)
        one = LoraSource(name=lora.path, source=source, strength=lora.strength)
        factor_keys(one, weights.model.shapes)
        found.append(one)
    return tuple(found)


def stage_loras(case: Case, weights: Weights) -> tuple[tuple[LoraSource, ...], ...]:
    """The LoRAs that each stage of a case fuses: the case's own, then the distilled one where the stage has it.

    One tuple if all stages have the same, so that one transformer serves them; else one for each stage. Raises: as
        `loras_of`, and CheckpointError if there is no distilled LoRA beside the checkpoint.
    """
    own, fuses = loras_of(case, weights), PIPELINES[case.pipeline].lora_strengths
    if fuses is None:
        return (own,)
    name = weights.distilled_lora
    source = weights.lora(name)
    return tuple(
        (*own, *([LoraSource(name=name, source=source, strength=plan.lora_strength)] if fused else ()))
        for plan, fused in zip(case.plans, fuses, strict=True)
    )


def with_loras(case: Case, named: Sequence[str]) -> Case:
    """The case with further LoRAs, each named FILE:STRENGTH on a command line; the case records the file's name alone.

    FILE is a path, or the name of a file beside the case or the weights. Raises: CaseError for text that is no such
        pair, or two files of one name.
    """
    loras, files = list(case.loras), list(case.lora_files)
    for text in named:
        path, colon, strength = text.rpartition(":")
        try:
            factor = float(strength)
        except ValueError:
            factor = math.nan
        if not colon or not path or not math.isfinite(factor):
            raise CaseError(f"--lora wants FILE:STRENGTH, for example distilled-lora.safetensors:0.5; got {text!r}.")
        if Path(path).is_file():
            place = str(Path(path).resolve())
            if any(Path(file).name == Path(path).name and file != place for file in files):
                raise CaseError(f"--lora names two files that are called {Path(path).name}; rename one.")
            files.append(place)
        elif Path(path).name != path:
            raise CaseError(f"--lora {text!r}: there is no file {path}.")
        loras.append(Lora(path=Path(path).name, strength=factor))
    document = {**fields_of(case), "loras": tuple(loras), "lora_files": tuple(dict.fromkeys(files))}
    return Case(**document)


def lora_hashes(case: Case, weights: Weights, device: torch.device) -> dict[str, str]:
    """The hash of every tensor of each LoRA of a case, hex, by its path in the case. Raises: as `loras_of`."""
    every = {lora.name: lora for loras in stage_loras(case, weights) for lora in loras}
    return {name: weights_hash(_entries(lora.source, device)) for name, lora in every.items()}


def _entries(source: TensorSource, device: torch.device) -> Iterator[WeightEntry]:
    return weight_entries((name, source.read([name], device)[name]) for name in source.shapes)
