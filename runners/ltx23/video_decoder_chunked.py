"""The video decoder's blocks run in place: one buffer a block, convolved in chunks of frames, channels innermost.

The same mathematics as the plain blocks in another order of rounding, with less memory: a workspace holds a block's
activations with one spare frame at either end for the padding in time, and norms, SiLU and convolutions overwrite it.

Axes: B clip, C channel, F frame, H height, W width. Workspaces are (B, C, F + 2, H, W), stored channels-last.
Source: ltx_core.model.video_vae.memory_efficient_decode 1.2.0 (commit 400fd31). A causal convolution cannot overwrite
what it still has to read, so it gets an output of its own there and here.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runners.ltx23.video_vae_convolution import KERNEL_SIZE, CausalConv3d
from runners.ltx23.video_vae_resnet import PixelNorm, ResnetBlock, ResnetStack, cell_noise, pixel_rms
from runners.ltx23.video_vae_sampling import DepthToSpaceUpsample, unfold

CHUNK_FRAMES = 16  # at most, spare frames included
INDEX_LIMIT = 2**31 - 1  # elements that some padding kernels can address

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def store_channels_last(module: ModuleT) -> ModuleT:
    """Lay out the convolution weights of `module` channels-last, once; values and names stay."""
    for parameter in module.parameters():
        if parameter.ndim == 5 and not parameter.is_contiguous(memory_format=torch.channels_last_3d):
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
    return module


def stack_in_place(
    stack: ResnetStack, x: Tensor, causal: bool, timestep: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """A residual stack on (B, C, F, H, W), which it overwrites with the result and returns."""
    embedding = stack.embed(timestep, x.dtype)
    workspace = _workspace(x, x.shape[1])
    for block in stack.res_blocks:
        assert isinstance(block, ResnetBlock)
        workspace[:, :, 1:-1].copy_(x)
        _residual_in_place(block, workspace, causal, embedding, generator)
        x.add_(workspace[:, :, 1:-1])
    return x


def _residual_in_place(
    block: ResnetBlock, workspace: Tensor, causal: bool, embedding: Tensor | None, generator: torch.Generator | None
) -> None:
    """Replace the workspace's frames by the residual of a block of equal channels, without its shortcut."""
    frames = workspace[:, :, 1:-1]
    modulations = block.modulations(embedding, frames)
    for norm, convolution, scale, rows in (
        (block.norm1, block.conv1, block.per_channel_scale1, slice(0, 2)),
        (block.norm2, block.conv2, block.per_channel_scale2, slice(2, 4)),
    ):
        _activate_in_place(frames, norm, None if modulations is None else modulations[rows])
        if causal:
            frames.copy_(convolution(frames, causal))
        else:
            _convolve_in_place(workspace, convolution.conv)
        if scale is not None:
            frames.add_(cell_noise(frames, scale, generator))


def upsample_in_place(block: DepthToSpaceUpsample, x: Tensor, causal: bool) -> Tensor:
    """As `DepthToSpaceUpsample.forward`, through a workspace."""
    shortcut = block.shortcut(x)
    convolution = block.conv.conv
    if causal:
        x = convolution(_causal_pad(x))
    else:
        workspace = _workspace(x, max(x.shape[1], convolution.out_channels))
        workspace[:, : x.shape[1], 1:-1].copy_(x)
        x = _convolved(workspace, convolution)
    x = block.drop_lead(unfold(x, block.stride))
    return x if shortcut is None else x.add_(shortcut)


def head_in_place(
    norm: nn.Module, convolution: CausalConv3d, x: Tensor, causal: bool, modulations: tuple[Tensor, ...] | None
) -> Tensor:
    """Norm, modulation by (shift, scale), SiLU and the last convolution: (B, C, F, H, W) -> (B, C', F, H, W)."""
    channels = x.shape[1]
    workspace = _workspace(x, max(channels, convolution.conv.out_channels))
    frames = workspace[:, :channels, 1:-1]
    frames.copy_(x)
    _activate_in_place(frames, norm, modulations)
    if causal:
        result: Tensor = convolution.conv(_causal_pad(frames))
        return result
    return _convolved(workspace, convolution.conv)


def _workspace(x: Tensor, channels: int) -> Tensor:
    """An empty buffer for frames of (B, C, F, H, W) `x` and two spare ones: (B, `channels`, F + 2, H, W)."""
    batch, _, frames, height, width = x.shape
    shape = (batch, channels, frames + 2, height, width)
    return torch.empty(shape, device=x.device, dtype=x.dtype, memory_format=torch.channels_last_3d)


def _activate_in_place(frames: Tensor, norm: nn.Module, modulations: tuple[Tensor, ...] | None) -> None:
    if isinstance(norm, PixelNorm):
        frames.div_(pixel_rms(frames))
    else:
        frames.copy_(norm(frames))
    if modulations is not None:
        shift, scale = modulations
        frames.mul_(1 + scale).add_(shift)
    F.silu(frames, inplace=True)


def _convolved(workspace: Tensor, convolution: nn.Conv3d) -> Tensor:
    """The convolution of a workspace, consumed, as a channels-last tensor of its own: (B, C', F, H, W)."""
    _convolve_in_place(workspace, convolution)
    return workspace[:, : convolution.out_channels, 1:-1].contiguous(memory_format=torch.channels_last_3d)


def _convolve_in_place(workspace: Tensor, convolution: nn.Conv3d) -> None:
    """Overwrite the frames between the spare ones by their 3x3x3 convolution, looking both ways, chunk by chunk.

    A chunk needs the frame before it as it was, which the chunk before has overwritten: that one frame is kept aside.
    """
    workspace[:, :, 0].copy_(workspace[:, :, 1])
    workspace[:, :, -1].copy_(workspace[:, :, -2])
    past_index_limit = workspace.untyped_storage().nbytes() > INDEX_LIMIT * workspace.element_size()
    original: Tensor | None = None  # the last frame of the chunk before, as it was
    chunks = chunk_bounds(workspace.shape[2])
    for start, stop in chunks:
        next_original = workspace[:, :, stop - 1].clone() if (start, stop) != chunks[-1] else None
        overwritten = workspace[:, :, start - 1].clone() if original is not None else None
        if original is not None:
            workspace[:, :, start - 1] = original
        chunk = workspace[:, : convolution.in_channels, start - 1 : stop + 1]
        workspace[:, : convolution.out_channels, start:stop] = convolution(chunk.clone() if past_index_limit else chunk)
        if overwritten is not None:
            workspace[:, :, start - 1] = overwritten
        original = next_original


def chunk_bounds(frames: int) -> list[tuple[int, int]]:
    """First frame and end of each chunk of a workspace of `frames`, spare ones at both ends left out.

    Up to 16 frames are one chunk. Above, the largest chunk size is taken that leaves no rest of one or two frames,
    which would be spare frames without one to convolve.
    """
    if frames <= CHUNK_FRAMES:
        return [(1, frames - 1)]
    fits = (size for size in range(CHUNK_FRAMES, 2, -1) if frames % size == 0 or frames % size >= KERNEL_SIZE)
    size = next(fits)  # every count above 16 has one
    return [(max(start, 1), min(start + size, frames - 1)) for start in range(0, frames, size)]


def _causal_pad(x: Tensor) -> Tensor:
    """Two copies of the first frame ahead of (B, C, F, H, W) `x`, in the layout of `x`."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last_3d)
    batch, channels, frames, height, width = x.shape
    spare = KERNEL_SIZE - 1
    padded = torch.empty(
        (batch, channels, frames + spare, height, width),
        device=x.device,
        dtype=x.dtype,
        memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format,
    )
    padded[:, :, spare:].copy_(x)
    padded[:, :, :spare] = padded[:, :, spare : spare + 1]
    return padded
