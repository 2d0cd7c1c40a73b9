"""Products in fp8: e4m3 values with one scale for each token and one for each output channel.

A row is divided by its largest magnitude over the largest e4m3 value, so that nothing saturates; the product is summed
in fp32 and scaled back. On CUDA the tensor cores multiply the fp8 values; elsewhere they are multiplied in fp32.

Axes: N token of all lanes, I input channel, O output channel.
Source of the format: Micikevicius et al., FP8 formats for deep learning, arXiv:2209.05433.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from runners.ltx23.fast.fused import gelu_, quantize_rows

FP8: Final = torch.float8_e4m3fn


@dataclass(frozen=True)
class Fp8Product:
    """A linear layer whose weights are kept in fp8."""

    weight: Tensor  # (O, I) e4m3
    weight_scale: Tensor  # (1, O) fp32
    bias: Tensor  # (O,) in the model's dtype

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> "Fp8Product":
        """Quantise a layer's weights, each output channel by itself."""
        values, scale = quantize_rows(weight, gelu=False)
        return cls(values, scale.t(), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return self._multiply(x, gelu=False)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (tanh) of the layer's output."""
        return gelu_(self(x))

    def of_gelu(self, x: Tensor) -> Tensor:
        """The layer's output for GELU (tanh) of (..., I)."""
        return self._multiply(x, gelu=True)

    def _multiply(self, x: Tensor, *, gelu: bool) -> Tensor:
        values, scale = quantize_rows(x.flatten(0, -2), gelu=gelu)  # (N, I), (N, 1)
        if x.is_cuda:
            product = torch._scaled_mm(
                values,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.weight_scale,
                bias=self.bias,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        else:
            exact = values.float() @ self.weight.float().t()
            product = (exact * scale * self.weight_scale + self.bias.float()).to(x.dtype)
        return product.view(*x.shape[:-1], -1)
