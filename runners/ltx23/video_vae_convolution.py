"""Convolution over frames, height and width that repeats edge frames in time and pads space as configured.

Axes: B clip, C channel, F frame, H height, W width.
Source: ltx_core.model.video_vae.convolution (CausalConv3d) 1.0.0.
"""

import torch
from torch import Tensor, nn

from runners.errors import ShapeError
from runners.ltx23.video_vae_config import Padding

KERNEL_SIZE = 3  # along every axis


class CausalConv3d(nn.Module):
    """A 3x3x3 convolution whose padding in time copies the first frame, and the last one when it may look ahead."""

    def __init__(
        self, in_channels: int, out_channels: int, padding: Padding, stride: tuple[int, int, int] = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            in_channels, out_channels, KERNEL_SIZE, stride=stride, padding=(0, 1, 1), padding_mode=padding
        )

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """Convolve (B, C, F, H, W); `causal` frames see no later frame. Without stride, F, H and W stay.

        Raises: ShapeError where a side of one cell has no neighbour to reflect.
        """
        if self.conv.padding_mode == "reflect" and min(x.shape[-2:]) < 2:
            raise ShapeError(
                f"spatial_padding_mode 'reflect' wants at least 2 cells along height and width; got "
                f"{x.shape[-2]} x {x.shape[-1]}. Ask for a larger picture."
            )
        first = x[:, :, :1]
        if causal:
            padded = torch.cat((first.repeat(1, 1, KERNEL_SIZE - 1, 1, 1), x), dim=2)  # (B, C, F+2, H, W)
        else:
            side = KERNEL_SIZE // 2
            last = x[:, :, -1:]
            padded = torch.cat((first.repeat(1, 1, side, 1, 1), x, last.repeat(1, 1, side, 1, 1)), dim=2)
        result: Tensor = self.conv(padded)
        return result
