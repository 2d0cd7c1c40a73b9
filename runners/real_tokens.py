"""The tokens of a prompt without its padding: all of Gemma's hidden states that anything reads.

Axes: S token of the padded prompt, N token of the prompt itself.
"""

from collections.abc import Mapping

from torch import Tensor

from runners.errors import ShapeError

PROMPT_TOKENS = 1024  # of the window that every prompt is padded or cut to, by the official text encoder
PromptTokens = Mapping[str, int]  # tap of a prompt's hidden states -> how many tokens the prompt has


def real_tokens(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The tokens of one prompt that its mask keeps, in their order; `text/{pos,neg}/hidden` is made of these.

    A prompt of 45 tokens comes in a window of 1024, and nothing reads what Gemma leaves at the other 979: the
    connectors zero it and put learned registers in its place. An engine is free to pad on the other side, to another
    length, or not at all, and attention kernels disagree wildly about queries that may look at nothing. Compared with
    its padding, such an engine would seem to be wrong where it is not, by more than most bugs come to.

    Args:
        hidden: (1, S, ...), padded on either side or not at all.
        attention_mask: (1, S), bool or integers, 0 where a token is padding.
    Returns: (1, N, ...), a copy.
    Raises: ShapeError for several prompts, a mask of another length or of fractions, or one that keeps no token.
    """
    if hidden.ndim < 2 or hidden.shape[0] != 1 or attention_mask.shape != hidden.shape[:2]:
        raise ShapeError(
            "real_tokens takes one prompt, (1, S, ...) hidden states with a (1, S) mask; got "
            f"{tuple(hidden.shape)} and {tuple(attention_mask.shape)}. Give it each prompt of a batch by itself, with "
            "the mask of its tokens."
        )
    if attention_mask.is_floating_point() or attention_mask.is_complex():
        raise ShapeError(
            f"real_tokens wants a mask of bools or integers, 0 where a token is padding; got {attention_mask.dtype}. "
            "An additive mask says the opposite: give the tokenizer's own."
        )
    kept = attention_mask[0].to(hidden.device) != 0
    tokens = hidden[:, kept]
    if tokens.shape[1] == 0:
        raise ShapeError(
            f"The mask keeps none of {hidden.shape[1]} tokens; a prompt has at least the one that begins it. Give "
            "the mask that the tokenizer made of this prompt."
        )
    return tokens


def with_real_tokens(hidden: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
    """Hidden states with other real tokens: (1, S, ...) whose padding stays as it is; the inverse of `real_tokens`.

    Args:
        hidden: (1, S, ...).
        attention_mask: (1, S), which keeps N tokens.
        tokens: (1, N, ...), in the dtype of `hidden`.
    Raises: ShapeError as `real_tokens`, and for another number or width of tokens.
    """
    wanted = real_tokens(hidden, attention_mask).shape
    if tokens.shape != wanted:
        raise ShapeError(f"The mask keeps tokens of shape {tuple(wanted)}; got {tuple(tokens.shape)}.")
    replaced = hidden.clone()
    replaced[:, attention_mask[0].to(hidden.device) != 0] = tokens
    return replaced


def without_left_padding(name: str, tensor: Tensor, tokens: PromptTokens) -> Tensor:
    """A tap as it is, or its last N tokens if it is a prompt in the official window, which is padded on the left.

    An engine's adapter may tap the window that its text encoder fills. One that pads elsewhere, or to another length,
    taps `real_tokens` by itself: of any other number of tokens nobody here knows which are real.

    Args:
        name: of the tap.
        tensor: (1, S, ...).
        tokens: N of each prompt.
    """
    count = tokens.get(name, PROMPT_TOKENS)
    is_window = tensor.ndim > 1 and tensor.shape[1] == PROMPT_TOKENS
    return tensor[:, -count:] if is_window and count < PROMPT_TOKENS else tensor
