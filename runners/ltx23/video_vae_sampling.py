"""Changing resolution: cells folded into channels on the way down, channels unfolded into cells on the way up.

Axes: B clip, C channel, F frame, H height, W width; p, q, r are the cells folded along F, H and W.
Source: ltx_core.model.video_vae.sampling and .ops 1.0.0. Mind the two channel orders: patches fold width before
height (c r q), the blocks inside fold frames, height, width (c p q r).
"""

import math

from einops import rearrange
from torch import Tensor, cat, nn

from runners.errors import ShapeError
from runners.ltx23.video_vae_config import Padding
from runners.ltx23.video_vae_convolution import CausalConv3d


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """(B, C, F, H*q, W*r) -> (B, C*r*q, F, H, W) with q = r = `patch_size`.

    Raises: ShapeError if height or width are no multiple of the patch.
    """
    if patch_size == 1:
        return pixels
    if pixels.shape[-2] % patch_size or pixels.shape[-1] % patch_size:
        raise ShapeError(
            f"The video encoder cuts patches of {patch_size} pixels; got height {pixels.shape[-2]} and width "
            f"{pixels.shape[-1]}. Resize or crop to multiples of the VAE's spatial factor first."
        )
    return rearrange(pixels, "b c f (h q) (w r) -> b (c r q) f h w", q=patch_size, r=patch_size)


def unpatchify(x: Tensor, patch_size: int) -> Tensor:
    """(B, C*r*q, F, H, W) -> (B, C, F, H*q, W*r) with q = r = `patch_size`."""
    if patch_size == 1:
        return x
    return rearrange(x, "b (c r q) f h w -> b c f (h q) (w r)", q=patch_size, r=patch_size)


def fold(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, C, F*p, H*q, W*r) -> (B, C*p*q*r, F, H, W) for `stride` (p, q, r)."""
    p, q, r = stride
    return rearrange(x, "b c (f p) (h q) (w r) -> b (c p q r) f h w", p=p, q=q, r=r)


def unfold(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, C*p*q*r, F, H, W) -> (B, C, F*p, H*q, W*r) for `stride` (p, q, r)."""
    p, q, r = stride
    return rearrange(x, "b (c p q r) f h w -> b c (f p) (h q) (w r)", p=p, q=q, r=r)


class SpaceToDepthDownsample(nn.Module):
    """Fold cells into channels twice, once convolved and once averaged over groups of channels, and add the two."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int], padding: Padding) -> None:
        super().__init__()
        cells = math.prod(stride)
        self.stride = stride
        self.group_size = in_channels * cells // out_channels  # folded channels averaged into one
        self.conv = CausalConv3d(in_channels, out_channels // cells, padding)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(B, C, F, H, W) -> (B, C', F', H/q, W/r); with p = 2 the first frame counts twice, so F' = (F + 1) / 2.

        Raises: ShapeError if the cells do not divide the input.
        """
        if self.stride[0] == 2:
            x = cat((x[:, :, :1], x), dim=2)
        if any(size % step for size, step in zip(x.shape[2:], self.stride, strict=True)):
            raise ShapeError(
                f"A video encoder block folds (F, H, W) by {self.stride}; got {tuple(x.shape[2:])} cells. "
                "Height and width must be multiples of the VAE's spatial factor."
            )
        averaged = rearrange(fold(x, self.stride), "b (c g) f h w -> b c g f h w", g=self.group_size).mean(dim=2)
        return fold(self.conv(x, causal), self.stride) + averaged


class DepthToSpaceUpsample(nn.Module):
    """Convolve to more channels and unfold them into cells; with `residual`, add the input unfolded and repeated."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: tuple[int, int, int],
        padding: Padding,
        residual: bool = False,
    ) -> None:
        super().__init__()
        cells = math.prod(stride)
        self.stride = stride
        self.residual = residual
        self.repeats = out_channels * cells // in_channels  # copies of the unfolded input that fill the output
        self.conv = CausalConv3d(in_channels, out_channels * cells, padding)

    def shortcut(self, x: Tensor) -> Tensor | None:
        """The input unfolded, repeated over channels and cut like the output; None without `residual`."""
        if not self.residual:
            return None
        return self.drop_lead(unfold(x, self.stride).repeat(1, self.repeats, 1, 1, 1))

    def drop_lead(self, x: Tensor) -> Tensor:
        """Without the first frame where time doubled: the first latent frame stands for one frame."""
        return x[:, :, 1:] if self.stride[0] == 2 else x

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(B, C, F, H, W) -> (B, C', F', H*q, W*r); with p = 2, F' = 2*F - 1."""
        shortcut = self.shortcut(x)
        x = self.drop_lead(unfold(self.conv(x, causal), self.stride))
        return x if shortcut is None else x + shortcut
