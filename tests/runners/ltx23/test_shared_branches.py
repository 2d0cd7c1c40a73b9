"""Branches that passes have in common within their blocks are computed once, with the bits of every pass computed."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from runners.case import Case
from runners.clock import Quiet
from runners.ltx23.attention import Attention
from runners.ltx23.shared_branches import SharedBranches
from runners.ltx23.transformer import Transformer
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.tap import listening
from runners.weights import WeightsFolder

BF16 = RunOptions(device=torch.device("cpu"))
ONE_STEP = {
    "guidance.video.stg_blocks": [1],
    "guidance.audio.stg_blocks": [1],
    "request.num_inference_steps": 1,
}


def ran(weights: WeightsFolder, case: Case, monkeypatch: pytest.MonkeyPatch, *, shared: bool) -> Counter[str]:
    """Number of calls of each layer of the transformer with a weight of its own."""
    called: Counter[str] = Counter()
    names: dict[int, str] = {}
    forward, begin = nn.Linear.forward, Transformer.forward

    def begun(model: Transformer, *call: object, **named: object) -> tuple[Tensor, Tensor]:
        names.update({id(layer): name for name, layer in model.named_modules()})
        return begin(model, *call, **named)  # type: ignore[arg-type]

    def counted(layer: nn.Linear, x: Tensor) -> Tensor:
        called[names.get(id(layer), "elsewhere")] += 1
        return forward(layer, x)

    with monkeypatch.context() as patched:
        patched.setattr(nn.Linear, "forward", counted)
        patched.setattr(Transformer, "forward", begun)
        with NativeRunner(weights, BF16) as runner:
            if shared:
                runner.run(case, Quiet())
            else:  # who cannot repeat hears every pass computed
                with listening(lambda _name, _tensor: None):
                    runner.run(case, Quiet())
    return called


def test_each_common_branch_runs_once(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = micro_case(ONE_STEP)  # of two blocks; the perturbed pass takes over the first
    shared = ran(micro_weights, case, monkeypatch, shared=True)
    whole = ran(micro_weights, case, monkeypatch, shared=False)
    for prefix in ("", "audio_"):
        expected = {
            f"{prefix}patchify_proj": (4, 1),
            f"transformer_blocks.0.{prefix}attn1.to_q": (4, 1),  # all passes
            f"transformer_blocks.0.{prefix}attn2.to_q": (4, 2),  # by their prompt
            f"transformer_blocks.0.{prefix}attn2.to_k": (4, 2),
            f"transformer_blocks.1.{prefix}attn1.to_q": (3, 3),  # the perturbed pass has its values alone
            f"transformer_blocks.1.{prefix}attn2.to_q": (4, 4),
            f"transformer_blocks.1.{prefix}attn2.to_k": (4, 2),
            f"transformer_blocks.1.{prefix}attn2.to_v": (4, 2),
            f"transformer_blocks.1.{prefix}attn2.to_out.0": (4, 4),
        }
        for name, (all_passes, once) in expected.items():
            assert (whole[name], shared[name]) == (all_passes, once), name


def attention() -> Attention:
    return Attention(query_width=6, context_width=10, heads=2, head_width=4, norm_eps=1e-6, gated=True)


def texts(tokens: int) -> tuple[Tensor, Tensor]:
    return torch.ones(1, tokens, 10), torch.ones(1, tokens, 8)


def test_equal_texts_that_are_two_tensors_share_nothing() -> None:
    layer, (one, _), (its, _) = attention(), texts(3), texts(3)
    branches = SharedBranches([(one, texts(3)[1]), (its, texts(3)[1])])
    first = branches.of_text(layer, one, "step", lambda: layer.keys_values(one))
    second = branches.of_text(layer, its, "step", lambda: layer.keys_values(its))
    assert first[0] is not second[0] and torch.equal(first[0], second[0])


def test_a_text_under_another_modulation_is_computed_anew() -> None:
    layer, both = attention(), texts(5)
    branches = SharedBranches([both, both])
    first = branches.of_text(layer, both[0], "one level", lambda: layer.keys_values(both[0]))
    assert branches.of_text(layer, both[0], "one level", lambda: layer.keys_values(both[0])) is first
    assert branches.of_text(layer, both[0], "another", lambda: layer.keys_values(both[0])) is not first


def test_a_stream_is_common_until_something_else_is_added() -> None:
    layer, branches = nn.Linear(6, 6), SharedBranches([texts(3), texts(3)])
    common = branches.project(layer, latent := torch.ones(1, 7, 6))
    assert branches.project(layer, latent) is common
    added = branches.add(layer, common, ("rotary",), "video/self_attn", lambda: common + 1)
    assert branches.add(layer, common, ("rotary",), "video/self_attn", lambda: common + 2) is added
    own = added + 0
    third = branches.add(layer, own, ("rotary",), "video/self_attn", lambda: own + 3)
    assert (
        torch.equal(third, own + 3) and branches.add(layer, own, ("rotary",), "video/self_attn", own.clone) is not own
    )
    one_pass = SharedBranches([texts(3)])
    assert one_pass.project(layer, latent) is not one_pass.project(layer, latent)
