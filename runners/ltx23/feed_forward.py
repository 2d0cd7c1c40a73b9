"""Feed-forward branch: widen four times, tanh-approximated GELU, narrow. Axes: B sample, T token, C channel.

Source: ltx_core.model.transformer.feed_forward and gelu_approx 1.0.0.
"""

from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4


class FeedForward(nn.Module):
    """(B, T, C) -> (B, T, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The checkpoint numbers the second projection 2: where dropout stood in training there is nothing.
        self.net = nn.Sequential(_WidenAndGelu(width), nn.Identity(), nn.Linear(EXPANSION * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each token by itself."""
        y: Tensor = self.net(x)
        return y


class _WidenAndGelu(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, EXPANSION * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")
