"""Number of tokens that the prompts of a case have: for engines that tap the window that a prompt stands in."""

import torch

from runners.case import Case
from runners.ltx23.gemma import PromptTokenizer
from runners.native.request import sampling_params
from runners.real_tokens import PromptTokens
from runners.weights import Weights


def prompt_tokens(case: Case, weights: Weights) -> PromptTokens:
    """Tokens of both prompts, by the name of their tap. Raises: CheckpointError for a folder without a tokenizer."""
    tokenizer, sampling = PromptTokenizer(weights.gemma_folder), sampling_params(case)
    prompts = {"text/pos/hidden": sampling.prompt, "text/neg/hidden": sampling.negative_prompt}
    return {tap: int(tokenizer(prompt, torch.device("cpu"))[1].sum()) for tap, prompt in prompts.items()}
