"""Text encoding: the prompt, and the negative one when guidance needs it, through Gemma, one at a time or together."""

import torch
from torch import Tensor

from runners.ltx23.gemma import GemmaEncoder
from runners.ltx23.stages.batch import Batch
from runners.real_tokens import real_tokens
from runners.tap import tap, tapping


class TextEncodingStage:
    """Fills in `prompt_embeds`, `prompt_attention_mask` and, with classifier-free guidance, the negative ones."""

    def __init__(self, encoder: GemmaEncoder) -> None:
        self.encoder = encoder

    def forward(self, batch: Batch) -> Batch:
        """Encode the batch's prompts; each gives (1, S, D, L) and a mask (1, S)."""
        sampling, guided = batch.sampling, batch.do_classifier_free_guidance
        prompts = [sampling.prompt, sampling.negative_prompt] if sampling.kind.guided else [sampling.prompt]
        if batch.config.reference.prompts_encoded_together:
            encoded = self.encoder.together(prompts)  # the negative one even where nothing asks for it, as officially
        else:
            encoded = [self.encoder(prompt) for prompt in (prompts if guided else prompts[:1])]
        batch.prompt_embeds, batch.prompt_attention_mask = self._stacked(*encoded[0], "pos")
        if guided:
            batch.negative_prompt_embeds, batch.negative_attention_mask = self._stacked(*encoded[1], "neg")
        return batch

    def _stacked(self, hidden_states: tuple[Tensor, ...], mask: Tensor, sign: str) -> tuple[Tensor, Tensor]:
        hidden = torch.stack(hidden_states, dim=-1)
        if tapping():
            tap(f"text/{sign}/hidden", real_tokens(hidden, mask))  # (1, N, D, L), N of S tokens
        return hidden, mask
