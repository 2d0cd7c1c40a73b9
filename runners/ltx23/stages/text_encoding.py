"""Text encoding: the prompt, and the negative prompt when guidance needs it, through Gemma, one at a time."""

import torch
from torch import Tensor

from runners.ltx23.gemma import GemmaEncoder
from runners.ltx23.stages.batch import Batch
from runners.tap import tap


class TextEncodingStage:
    """Fills in `prompt_embeds`, `prompt_attention_mask` and, with classifier-free guidance, the negative ones."""

    def __init__(self, encoder: GemmaEncoder) -> None:
        self.encoder = encoder

    def forward(self, batch: Batch) -> Batch:
        """Encode the batch's prompts; each gives (1, S, D, L) and a mask (1, S)."""
        batch.prompt_embeds, batch.prompt_attention_mask = self._encode(batch.sampling.prompt, "pos")
        if batch.do_classifier_free_guidance:
            encoded = self._encode(batch.sampling.negative_prompt, "neg")
            batch.negative_prompt_embeds, batch.negative_attention_mask = encoded
        return batch

    def _encode(self, prompt: str, sign: str) -> tuple[Tensor, Tensor]:
        hidden_states, mask = self.encoder(prompt)
        hidden = torch.stack(hidden_states, dim=-1)
        tap(f"text/{sign}/hidden", hidden)
        return hidden, mask
