"""The fused operations of the fast tier by themselves: our kernels, the compiler's, and plain torch, by turns.

    python bench/fused.py --out FILE [--lanes 4] [--tokens 6144] [--width 4096] [--heads 32] [--repeats 30]

Times are medians between device events, on tensors that rotate through more memory than the cache holds; bytes are
what the operation has to read and write once, rows and tables aside. Products and attention are timed as well, in
operations a second.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu import header, median_s, options
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.runs.execute import device_named
from parity.trace.atomic import write_json_atomic
from runners.ltx23.fast import fused
from runners.ltx23.fast.fused import Prepare, Rows, TokenRotary

EPS = 1e-6
Work = Callable[[Tensor], object]


def operations(
    a: argparse.Namespace, device: torch.device, given: list[Tensor]
) -> dict[str, tuple[float, list[Tensor], Work]]:
    """Each fused operation of the stream, how many bf16 tensors of its size it moves, and on what it works."""

    def rows() -> Rows:
        return Rows(torch.randn(2, a.width, device=device), torch.randn(2, a.width, device=device))

    row = torch.randint(0, 2, (a.tokens,), dtype=torch.int32, device=device)
    gate, one, two = torch.rand(2, a.width, device=device) * 0.01, rows(), rows()
    branch, outs = torch.randn_like(given[0]), [torch.empty_like(given[0]) for _ in range(2)]
    tables = [torch.rand(a.tokens, a.width // 2, device=device).to(torch.bfloat16) for _ in range(2)]
    weight, rotary = torch.ones(a.width, device=device, dtype=torch.bfloat16), TokenRotary(*tables, a.heads)
    logits = torch.zeros(a.lanes, a.tokens, a.heads, device=device, dtype=torch.bfloat16)
    prepare = tuple(Prepare(rows=its, row=row, out=out) for its, out in zip((one, two), outs, strict=True))
    streams = [one.float() for one in given]  # the residual stream is in fp32: two tensors to read, two to write
    both = [one.repeat(1, 1, 2) for one in given]  # queries and keys as one product leaves them
    return {
        "norm_modulate": (3, streams, lambda x: fused.norm_modulate(x, prepare[0], EPS)),
        "add_branch": (6, streams, lambda x: fused.add_branch_(x, branch, gate, row, prepare[:1], EPS)),
        "add_branch_two": (7, streams, lambda x: fused.add_branch_(x, branch, gate, row, prepare, EPS)),
        "norm_rotate": (4, both, lambda x: fused.norm_rotate_(x, (weight, weight), rotary, EPS)),
        "norm_queries": (2, given, lambda x: fused.norm_rotate_(x, (weight,), None, EPS)),
        "gate_heads": (2, given, lambda x: fused.gate_heads_(x, logits)),
    }


def main() -> None:
    """Measure and save."""
    parser = options(__doc__)
    for name, value in (("lanes", 4), ("tokens", 6144), ("width", 4096), ("heads", 32), ("repeats", 30)):
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    device = device_named(a.device)
    torch.manual_seed(0)
    given = [torch.randn(a.lanes, a.tokens, a.width, device=device).to(torch.bfloat16) for _ in range(4)]
    size = given[0].nbytes
    found: dict[str, dict[str, float]] = {}

    def note(name: str, way: str, seconds: float, amount: float, unit: str) -> None:
        found.setdefault(name, {})[f"{way}_s"] = seconds
        print(f"{name:<22} {way:<10} {seconds * 1e6:9.1f} us  {amount / seconds / 1e12:7.2f} {unit}", flush=True)

    kernels = operations(a, device, given)
    for name, (tensors, own, work) in kernels.items():
        note(name, "kernel", median_s(work, own, a.repeats), tensors * size, "TB/s")
    with torch.no_grad():
        fused.triton_kernels = lambda: None  # type: ignore[assignment]  # from here on the torch forms
        for name, (tensors, own, work) in operations(a, device, given).items():
            note(name, "torch", median_s(work, own, a.repeats), tensors * size, "TB/s")
            try:
                seconds = median_s(torch.compile(work), own, a.repeats)
            except RuntimeError as error:  # of the compiler
                print(f"{name:<22} compiled   failed: {str(error)[:80]!r}", flush=True)
                continue
            note(name, "compiled", seconds, tensors * size, "TB/s")
    flat = [x.flatten(0, 1) for x in given]
    count = flat[0].shape[0]
    for name, wide in (("product_qkv", 3 * a.width), ("product_out", a.width), ("product_widen", 4 * a.width)):
        weight = (torch.randn(wide, a.width, device=device) * 0.02).to(torch.bfloat16)
        bias = torch.zeros(wide, device=device, dtype=torch.bfloat16)
        work_of: dict[str, Any] = {"linear": lambda x, w=weight, b=bias: F.linear(x, w, b)}
        if name == "product_widen":
            work_of["gelu_after"] = lambda x, w=weight, b=bias: F.gelu(F.linear(x, w, b), approximate="tanh")
            work_of["gelu_in"] = lambda x, w=weight, b=bias: fused.linear_gelu(x, w, b)
        for way, work in work_of.items():
            note(name, way, median_s(work, flat, a.repeats), 2.0 * count * a.width * wide, "TFLOP/s")
    heads = [x.view(a.lanes, a.tokens, a.heads, -1).transpose(1, 2) for x in given]
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, None):

        def attend(x: Tensor, backend: SDPBackend | None = backend) -> Tensor:
            if backend is None:
                return F.scaled_dot_product_attention(x, x, x)
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(x, x, x)

        way = "default" if backend is None else backend.name.lower().removesuffix("_attention")
        if device.type == "cuda" or backend is None:
            note("attention", way, median_s(attend, heads, a.repeats), 4.0 * a.lanes * a.tokens**2 * a.width, "TFLOP/s")
    write_json_atomic(Path(a.out), {**header("fused", a, device), "tensor_bytes": size, "operations": found})


if __name__ == "__main__":
    main()
