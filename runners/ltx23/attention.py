"""Multi-head attention as used everywhere in LTX-2.3: in the transformer's blocks and in the text connectors.

Axes: B sample, T query token, S key token, C channel of the queries' stream, H head, D channel of all heads together.

Queries and keys are RMS-normalised over the full inner width D (not per head), then rotated. Each head's output may
be scaled by a gate of its own, 2 sigmoid(linear(x)): zero logits leave it as it is.

Source: ltx_core.model.transformer.attention 1.0.0, `PytorchAttention` (its default where xformers is not installed).
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from runners.ltx23.rotary import Rotary


class Attention(nn.Module):
    """Attention of a stream to itself or to a context. Axes: see the module."""

    def __init__(
        self, *, query_width: int, context_width: int, heads: int, head_width: int, norm_eps: float, gated: bool
    ) -> None:
        super().__init__()
        inner_width = heads * head_width
        self.heads = heads
        self.q_norm = nn.RMSNorm(inner_width, eps=norm_eps)
        self.k_norm = nn.RMSNorm(inner_width, eps=norm_eps)
        self.to_q = nn.Linear(query_width, inner_width)
        self.to_k = nn.Linear(context_width, inner_width)
        self.to_v = nn.Linear(context_width, inner_width)
        self.to_gate_logits = nn.Linear(query_width, heads) if gated else None
        self.to_out = nn.Sequential(nn.Linear(inner_width, query_width))

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        *,
        query_rotary: Rotary | None = None,
        key_rotary: Rotary | None = None,
        mask: Tensor | None = None,
        values_only: bool = False,
        keys_values: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend from `x` to `context` (the same tensor for self-attention).

        Args:
            x: (B, T, C) queries' stream.
            context: (B, S, context width) keys' and values' stream.
            query_rotary: turns the queries; None leaves them.
            key_rotary: turns the keys; None leaves them.
            mask: additive, broadcastable to (B, H, T, S), in the dtype of `x`.
            values_only: put each token's own value in place of the attention's output; wants T = S. This is
                self-attention as the perturbed guidance pass has it.
            keys_values: `keys_values(context)`, where the caller has them already.
        Returns: (B, T, C), gated and projected.
        """
        if values_only:
            return self._project_out(x, self.to_v(context))
        keys, values = self.keys_values(context) if keys_values is None else keys_values
        queries = self.q_norm(self.to_q(x))
        if query_rotary is not None:
            queries = query_rotary.rotate(queries)
        if key_rotary is not None:
            keys = key_rotary.rotate(keys)
        # Strided views, not copies: the kernel that is chosen depends on the layout.
        queries, keys, values = (
            rearrange(part, "b t (h d) -> b h t d", h=self.heads) for part in (queries, keys, values)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self._project_out(x, rearrange(attended, "b h t d -> b t (h d)"))

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, normalised and not yet rotated, and values (B, S, D) of a context (B, S, context width)."""
        return self.k_norm(self.to_k(context)), self.to_v(context)

    def _project_out(self, x: Tensor, attended: Tensor) -> Tensor:
        if self.to_gate_logits is not None:
            gates = 2.0 * torch.sigmoid(self.to_gate_logits(x))  # (B, T, H)
            per_head = rearrange(attended, "b t (h d) -> b t h d", h=self.heads)
            attended = rearrange(per_head * gates.unsqueeze(-1), "b t h d -> b t (h d)")
        projected: Tensor = self.to_out(attended)
        return projected
