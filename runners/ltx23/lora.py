"""LoRA: low-rank factors fused into the transformer's weights while they are loaded, with the official loader's bits.

A file holds, for a linear layer X, `X.lora_A.weight` (R, I) and `X.lora_B.weight` (O, R); what is added to its weight
(O, I) is strength * B A. Only the transformer takes any. The strength is multiplied into B in the factors' own dtype,
the product is rounded to the dtype of the sum, and several are added up before the weight is added.

Source: ltx_core.loader.{fuse_loras,sd_ops,single_gpu_model_builder} 1.0.0; with the reference behaviour
`lora_accumulated` as since 1.2.0 (repository commit 400fd31), where factors are bf16 and each further product is
accumulated on the sum before it.

Axes: O output channel, I input channel, R rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from runners.errors import CheckpointError
from runners.ltx23.fp8_cast import FP8
from runners.ltx23.fp8_rounding import added_at_random
from runners.ltx23.fp8_scaled_mm import SCALE, fused_scaled
from runners.ltx23.loading import LISTED, TRANSFORMER
from runners.model_files import LoraSource, TensorSource

LEFT_OUT: Final = "diffusion_model."  # the official loader takes this out of every key, wherever it stands
CONNECTOR: Final = "_embeddings_connector."  # stands there too, and is none of the transformer
FACTORS: Final = (".lora_A.weight", ".lora_B.weight")
WEIGHT: Final = ".weight"


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The factors of one weight in one file, as stored."""

    a: Tensor  # (R, I)
    b: Tensor  # (O, R)
    strength: float


def factor_keys(lora: LoraSource, weights: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, str]]:
    """The keys of both factors in a file by the checkpoint's name of the weight they are fused into.

    Args:
        lora: the file.
        weights: name -> shape of the whole checkpoint, of which only the transformer takes LoRAs.
    Raises: CheckpointError if no weight is matched, if two keys mean the same factor, or if shapes do not fit.
    """
    renamed: dict[str, str] = {}
    for key in lora.source.shapes:
        name = key.replace(LEFT_OUT, "")
        if name in renamed:
            raise CheckpointError(
                f"{lora.name} holds both {renamed[name]!r} and {key!r}, which are one factor to the official loader; "
                "keep one of them."
            )
        renamed[name] = key
    found: dict[str, tuple[str, str]] = {}
    for name, shape in weights.items():
        if not name.startswith(TRANSFORMER) or CONNECTOR in name:
            continue
        layer = name.removeprefix(TRANSFORMER).removesuffix(WEIGHT)
        keys = [renamed.get(layer + factor) for factor in FACTORS]
        if not name.endswith(WEIGHT) or keys[0] is None or keys[1] is None:
            continue
        found[name] = keys[0], keys[1]
        a, b = (lora.source.shapes[key] for key in found[name])
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != shape:
            raise CheckpointError(
                f"{lora.name} has factors {b} x {a} for {name}, which is {shape}; it belongs to another model."
            )
    if not found:
        there = ", ".join(sorted(lora.source.shapes)[:LISTED]) or "none"
        raise CheckpointError(
            f"{lora.name} matches no weight of the transformer; its {len(lora.source.shapes)} tensors are {there}. "
            f"Wanted pairs such as diffusion_model.transformer_blocks.0.attn1.to_q{FACTORS[0]} and {FACTORS[1]}."
        )
    return found


def lora_delta(factors: Sequence[Factors], dtype: torch.dtype, *, accumulated: bool) -> Tensor:
    """The sum of strength * B A over one weight's factors, (O, I) in `dtype`.

    Args:
        factors: one or more, in the order of the files, on one device.
        dtype: of the sum.
        accumulated: reference behaviour `lora_accumulated`.
    """
    if not accumulated:
        products = [torch.matmul(one.b * one.strength, one.a).to(dtype) for one in factors]
        return products[0] if len(products) == 1 else torch.stack(products).sum(dim=0)
    first, *others = (Factors(a=one.a.to(dtype), b=one.b.to(dtype), strength=one.strength) for one in factors)
    delta = torch.matmul(first.b * first.strength, first.a)
    for one in others:
        delta.addmm_(one.b, one.a, alpha=one.strength)
    return delta


class FusedWeights:
    """The transformer's tensors with LoRAs fused into them; satisfies `runners.model_files.TensorSource`."""

    def __init__(
        self, source: TensorSource, loras: Sequence[LoraSource], dtype: torch.dtype, *, accumulated: bool
    ) -> None:
        """Match files and weights.

        Args:
            source: of the whole checkpoint.
            loras: in the order in which they are added up.
            dtype: that the model runs in.
            accumulated: reference behaviour `lora_accumulated`.
        Raises: CheckpointError as `factor_keys`.
        """
        self.shapes = source.shapes
        self._source = source
        self._dtype = torch.bfloat16 if accumulated else dtype
        self._accumulated = accumulated
        matched = [(lora, factor_keys(lora, source.shapes)) for lora in loras]
        # Files that all have no strength are not read: the weights are what they are without them.
        self._matched = matched if any(lora.strength for lora in loras) else []

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by checkpoint name. Raises: CheckpointError for a weight that nothing can be fused into."""
        tensors = self._source.read(names, device)
        files = [
            (lora, keys, lora.source.read([key for name in names for key in keys.get(name, ())], torch.device("cpu")))
            for lora, keys in self._matched
        ]
        for name in names:
            factors = [
                Factors(a=there[keys[name][0]].to(device), b=there[keys[name][1]].to(device), strength=lora.strength)
                for lora, keys, there in files
                if name in keys
            ]
            if factors and name + SCALE in self.shapes:
                scale_name = name + SCALE
                scale = self._source.read([scale_name], device)[scale_name]
                delta = lora_delta(factors, torch.bfloat16, accumulated=self._accumulated)
                tensors[name], scale = fused_scaled(tensors[name], scale, delta)
                if scale_name in tensors:
                    tensors[scale_name] = scale
            elif factors:
                tensors[name] = self._fused(name, tensors[name], factors)
        return tensors

    def _fused(self, name: str, weight: Tensor, factors: Sequence[Factors]) -> Tensor:
        if weight.dtype not in (torch.bfloat16, FP8):
            raise CheckpointError(f"{name} is kept in {weight.dtype}; a LoRA is fused into bf16 weights, or into e4m3.")
        if any(one.a.dtype != one.b.dtype for one in factors):
            raise CheckpointError(f"The factors of {name} differ in their dtype; they must be of one.")
        delta = lora_delta(factors, self._dtype, accumulated=self._accumulated)
        if weight.dtype == FP8 and weight.is_cuda:
            return added_at_random(delta, weight)
        if weight.dtype == FP8:
            return delta.add_(weight.to(delta.dtype)).to(FP8)
        return delta.add_(weight)
