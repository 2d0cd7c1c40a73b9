"""Harmless variations of a run: what moves the bits and is no bug. How far they move a metric is its floor.

They hold for both runners, since they change torch, threads or inputs and nothing of the model: the official runs give
the floors that limits are derived from, native runs with other draws show whether those limits raise false alarms.

On a CPU, one thread and two are both members, and so are the kernels of two capabilities (AVX512 and AVX2, say): limits
hold for any number of threads and any x86 machine because these were measured, and expire with neither.

The oracle is float32 throughout but for the positions of video: release 1.0.0 rounds those to bfloat16, which moves
the rotary angles by far more than any rounding of activations does. That is what the reference computes, not noise, so
the oracle keeps it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Gemma3TextModel

from parity.runs.in_memory import CPU
from runners.ltx23 import latents
from runners.ltx23.latents import VideoShape
from runners.ltx23.stages import denoising, latent_preparation
from runners.releases import reference_of

BLOCKS: Final = ("BasicAVTransformerBlock", "AudioVideoBlock")  # official and native


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One harmless variation."""

    id: str
    description: str
    apply: Callable[[], AbstractContextManager[Any]]
    dtype: torch.dtype = torch.bfloat16
    native_only: bool = False  # runs the native model also where the official one is varied; their bits are the same
    variables: Mapping[str, str] | None = None  # runs in a child process with these: what torch reads when imported
    alone: bool = False  # also moves parts that are tried alone, where only the candidate's side is varied


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on `count` threads: sums are split, and so rounded, in other places."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Compute products and convolutions by torch's own kernels."""
    flags: Any = torch.backends.mkldnn  # its own context manager also sets precisions, and warns of what it sets
    before = flags.enabled
    flags.enabled = False
    try:
        yield
    finally:
        flags.enabled = before


def one_ulp_off(x: Tensor, draw: torch.Generator) -> Tensor:
    """Every element moved to the next representable value, up or down at random."""
    up = torch.rand(x.shape, generator=draw) < 0.5
    towards = torch.where(up, torch.inf, -torch.inf).to(x)
    return torch.nextafter(x, towards)


@contextmanager
def noise_one_ulp_off(seed: int) -> Iterator[None]:
    """Move the initial noise, and any other that a seeded generator gives, by one ULP."""
    original = torch.randn
    draw = torch.Generator().manual_seed(seed)

    def randn(*size: Any, **options: Any) -> Tensor:
        drawn: Tensor = original(*size, **options)
        return drawn if options.get("generator") is None else one_ulp_off(drawn, draw)

    with patch.object(torch, "randn", randn):
        yield


@contextmanager
def text_one_ulp_off(seed: int) -> Iterator[None]:
    """Move every hidden state of the language model by one ULP."""
    original = Gemma3TextModel.forward
    draw = torch.Generator().manual_seed(seed)

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        output = original(self, *args, **options)
        output.hidden_states = tuple(one_ulp_off(state, draw) for state in output.hidden_states)
        return output

    with patch.object(Gemma3TextModel, "forward", forward):
        yield


@contextmanager
def compiled_branches() -> Iterator[None]:
    """Compile every branch of a transformer's blocks, official or native, when its block is first called.

    Compiled for a CPU, a branch keeps in float32 what eager code rounds to bfloat16 between two operations. Not the
    block as a whole: a compiler would break it up at its taps, and so compile another program than one without them.
    """
    from torch._dynamo import config as dynamo_config  # here, since importing the compiler takes seconds

    original = nn.Module.__call__

    def call(module: Any, *args: Any, **options: Any) -> Any:
        if type(module).__name__ in BLOCKS:
            for branch in module.children():
                if "forward" not in vars(branch):
                    branch.forward = torch.compile(branch.forward, dynamic=False)
        return original(module, *args, **options)

    # every pass of guidance, with other operands, compiles anew; going on without a compiler would be no variation
    limits = dynamo_config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True)
    with patch.object(nn.Module, "__call__", call), limits:
        yield


def positions_in_bf16() -> AbstractContextManager[Any]:
    """Give a float32 run the positions of the bfloat16 one."""
    original = latents.video_positions

    def positions(shape: VideoShape, frame_rate: float, _: torch.dtype, device: torch.device) -> Tensor:
        return original(shape, frame_rate, torch.bfloat16, device)

    return patch.object(latent_preparation, "video_positions", positions)


ORACLE: Final = Variation(
    id="oracle",
    description="float32, with positions as bfloat16 holds them",
    apply=positions_in_bf16,
    dtype=torch.float32,
    native_only=True,
)


COMPILED: Final = Variation(
    id="compiled_branches",
    description="with the branches of transformer blocks compiled (minutes, most of them for the compiler)",
    apply=compiled_branches,
)


def oracle_at(release: str) -> Variation:
    """The oracle of a release: from 1.2.0 on, the reference itself keeps positions in float32."""
    if not reference_of(release).positions_fp32:
        return ORACLE
    return replace(ORACLE, description="float32", apply=nullcontext)


def other_capability() -> Variation | None:
    """The kernels of another CPU capability than this process has; None where there is none.

    A process that is held below its machine by environment variables is varied by taking these away. Otherwise a
    machine with AVX512 takes its AVX2 kernels, those of torch and those of oneDNN; any other takes torch's kernels
    without vector instructions, its oneDNN staying as it is.
    """
    here = torch.backends.cpu.get_cpu_capability()
    held = [name for name in CAPABILITY_VARIABLES if os.environ.get(name)]
    if held:
        description, variables = "with the kernels of all that this CPU has", dict.fromkeys(CAPABILITY_VARIABLES, "")
    elif here == "AVX512":
        description = "with AVX2 kernels in place of AVX512"
        variables = dict(zip(CAPABILITY_VARIABLES, ("avx2", "AVX2"), strict=True))
    elif here not in ("DEFAULT", "NO AVX"):
        description, variables = f"with torch's kernels that need no {here}", {CAPABILITY_VARIABLES[0]: "default"}
    else:
        return None
    return Variation(
        id="other_capability",
        description=f"{description}, in a process of its own",
        apply=nullcontext,
        variables=variables,
    )


CAPABILITY_VARIABLES: Final = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
THREADS: Final = (
    Variation(id="one_thread", description="on one thread", apply=partial(threads, 1)),
    Variation(id="two_threads", description="on two threads", apply=partial(threads, 2), alone=True),
)
WITHOUT_ONEDNN: Final = Variation(
    id="without_onednn",
    description="products and convolutions by torch's own kernels instead of oneDNN's",
    apply=without_onednn,
    alone=True,
)
# On a GPU threads sum nothing; which attention kernel torch takes is what another machine decides otherwise.
KERNELS: Final = (
    Variation(
        id="without_cudnn",
        description="attention by any kernel but cuDNN's",
        apply=partial(sdpa_kernel, [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]),
    ),
    Variation(
        id="without_cudnn_and_flash",
        description="attention by any kernel but cuDNN's and flash attention",
        apply=partial(sdpa_kernel, [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]),
        alone=True,  # what another exact kernel does to attention by itself; as two products it takes ten times as long
    ),
)

# Native only: what it computes once for several passes is computed for each, as the official code does. Equal bits.
UNSHARED: Final = Variation(
    id="unshared",
    description="with nothing shared between the passes of a step",
    apply=lambda: patch.object(denoising, "departure", lambda *_: 0),
    native_only=True,
)


def _of_a_cpu() -> tuple[Variation, ...]:
    capability = other_capability()
    return (*THREADS, WITHOUT_ONEDNN, *(() if capability is None else (capability,)))


def variations(
    draws: range, release: str = "1.0.0", compiled: bool = False, device: torch.device = CPU, oracle: bool = True
) -> tuple[Variation, ...]:
    """The population on a device.

    `draws` seeds the ULP moves; populations that must be independent take ranges apart. Without `oracle` there is no
    float32 run in it.
    """
    fixed = (
        Variation(id="repeated", description="the same run once more", apply=nullcontext),
        *((*KERNELS, UNSHARED) if device.type == "cuda" else _of_a_cpu()),
        Variation(
            id="math_attention",
            description="attention as two matrix products instead of a fused kernel",
            apply=partial(sdpa_kernel, SDPBackend.MATH),
            alone=True,
        ),
        *((oracle_at(release),) if oracle else ()),
        *((COMPILED,) if compiled else ()),
    )
    moves = (
        ("noise", "initial noise moved by one ULP", noise_one_ulp_off),
        ("text", "hidden states of the text moved by one ULP", text_one_ulp_off),
    )
    moved = [
        Variation(id=f"{what}_ulp_{seed}", description=description, apply=partial(move, seed))
        for seed in draws
        for what, description, move in moves
    ]
    return (*fixed, *moved)
