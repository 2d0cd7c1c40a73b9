"""Every group says what is harmless at its place of an isolation, and the arithmetic holds for real tensors."""

import pytest
import torch
from torch import Tensor

from parity.calibrate.isolated_floors import place_of_group
from parity.taps.group import ISOLATED_GROUPS


def test_every_group_says_what_is_harmless_there() -> None:
    places = {group: place_of_group(group) for group in ISOLATED_GROUPS}
    assert {place.kind for place in places.values()} == {"exact", "elementwise", "product", "attention", "convolution"}
    for group, place in places.items():
        assert (place.bound is None) == (place.kind in ("product", "attention", "convolution")), group
        assert bool(place.bound_from) == (place.bound is not None), group
    assert {group for group, place in places.items() if place.kind == "attention"} == {
        f"block.{stream}.{part}.sdpa" for stream in ("video", "audio") for part in ("self_attn", "text_attn", "av_attn")
    }


@pytest.mark.parametrize(
    ("group", "guidance_fp32", "bound"),
    [
        ("text.mask", False, 0.0),
        ("init.video", False, 6.1035e-5),  # sqrt(4 2^-23 2^-7) = 2^-14
        ("latent.audio", False, 1.0572e-4),  # three roundings to bf16: sqrt(3) 2^-14
        ("guided.video", False, 6.7658e-3),  # nine roundings of bf16: 3 2^-7 / sqrt(12)
        ("guided.video", True, 6.1035e-5),
        ("sigmas", False, 9.1048e-8),  # seven of fp32: sqrt(7 / 12) 2^-23
    ],
)
def test_bounds_by_hand(group: str, guidance_fp32: bool, bound: float) -> None:
    assert place_of_group(group, guidance_fp32=guidance_fp32).bound == pytest.approx(bound, rel=1e-4)


def relative_l2(reference: Tensor, candidate: Tensor) -> float:
    return float((candidate.double() - reference.double()).norm() / reference.double().norm())


def test_an_euler_step_by_other_operations_in_fp32_is_within_the_bound_and_one_in_bf16_far_beyond() -> None:
    latent, x0 = (torch.randn(4, 300, 128).bfloat16() for _ in range(2))
    sigma, change, bound = 0.725, -0.303125, place_of_group("latent.video").bound
    assert bound is not None
    velocity = ((latent.float() - x0.float()) / sigma).bfloat16()
    reference = (latent.float() + velocity.float() * change).bfloat16()
    again = ((latent.float() - x0.float()) * (1 / sigma)).bfloat16()
    other = torch.add(latent.float(), again.float(), alpha=change).bfloat16()
    assert 0 < relative_l2(reference, other) < bound
    in_bf16 = latent + ((latent - x0) / sigma) * change
    assert relative_l2(reference, in_bf16) > 10 * bound
    unrounded = (latent.float() + (latent.float() - x0.float()) / sigma * change).bfloat16()
    assert relative_l2(reference, unrounded) > 10 * bound, "as far off, though nearer to the truth"


def test_a_sum_in_fp32_is_within_the_bound_of_one_that_rounds_to_bf16_nine_times() -> None:
    c, u, p, m = (torch.randn(3, 200, 128).bfloat16() for _ in range(4))
    bound = place_of_group("guided.video").bound
    assert bound is not None

    def combined(c: Tensor, u: Tensor, p: Tensor, m: Tensor) -> Tensor:
        guided = c + 2.0 * (c - u) + 1.0 * (c - p) + 2.0 * (c - m)
        return (guided * (0.7 * c.std() / guided.std() + 0.3)).bfloat16()

    in_bf16, in_fp32 = combined(c, u, p, m), combined(c.float(), u.float(), p.float(), m.float())
    assert bound / 10 < relative_l2(in_bf16, in_fp32) < bound
