import math
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from parity.diff.sketches import relative_l2
from parity.trace import sketch as sketch_module
from parity.trace.sketch import (
    FLOAT_STATISTICS,
    GOLDEN,
    INTEGER_STATISTICS,
    MULTIPLIERS,
    SEED,
    TapSketch,
    checksum_of,
    sketch,
    sketch_into,
)
from runners.errors import ConfigError, ShapeError


def mix32(x: int) -> int:
    x = (x + SEED) % 2**32
    x = (x ^ x >> 16) * 0x21F0AAAD % 2**32
    x = (x ^ x >> 15) * 0xD35A2D97 % 2**32
    return x ^ x >> 15


def buckets_by_the_text(values: list[float], buckets: int) -> list[float]:
    """The specification, element by element, in Python integers."""
    sums = [0.0] * buckets
    for i, value in enumerate(values):
        v, e = divmod(i, 8)
        c, u = divmod(v, buckets)
        u = u - u % 64 + (u % 64 + 29 * (u // 64)) % 64
        turn = (c * GOLDEN % 2**32) >> (32 - int(math.log2(buckets)))
        sign = -1 if mix32(v) >> (31 - e) & 1 else 1
        sums[(u + turn + e * buckets // 8) % buckets] += sign * value
    return sums


def checksum_by_the_text(words: list[int]) -> int:
    total = 0
    for q in range(0, len(words), 4):
        keyed = [(words[q + j] + mix32(q // 4) * MULTIPLIERS[j]) % 2**32 for j in range(4)]
        total += keyed[0] * keyed[1] + keyed[2] * keyed[3]
    return (total + 2**63) % 2**64 - 2**63


@pytest.mark.parametrize("buckets", [16, 64, 128, 1024])
def test_the_torch_form_does_what_the_specification_says(buckets: int) -> None:
    tensor = torch.randn(3, 7, 101, generator=torch.Generator().manual_seed(0))
    words = [word % 2**32 for word in tensor.flatten().view(torch.int32).tolist()]
    words += [0] * (-len(words) % 8)
    result = sketch(tensor, buckets=buckets)
    assert result.checksum == checksum_by_the_text(words)
    expected = torch.tensor(buckets_by_the_text(tensor.flatten().tolist(), buckets))
    torch.testing.assert_close(result.buckets, expected, rtol=1e-5, atol=1e-5)
    assert result.shape == (3, 7, 101) and result.dtype == "float32"
    assert result.max_abs == tensor.abs().max().item()
    assert result.l2 == pytest.approx(tensor.double().norm().item(), rel=1e-6)
    assert result.mean == pytest.approx(tensor.double().mean().item(), rel=1e-5)


def test_two_values_are_placed_and_signed_as_worked_by_hand() -> None:
    """h(0) begins with bits 1000 1111, h(1) with 1001 0111; chunk 0 does not turn; places are K/8 = 2 buckets apart."""
    assert (mix32(0), mix32(1)) == (0x8FAA093F, 0x97B964B3)
    tensor = torch.zeros(16)
    tensor[1], tensor[8 + 2] = 3.0, 5.0
    buckets = sketch(tensor, buckets=16).buckets
    assert torch.count_nonzero(buckets) == 2
    assert buckets[0 + 1 * 2] == 3.0
    assert buckets[1 + 2 * 2] == 5.0


def test_sketches_do_not_depend_on_how_the_tensor_is_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(9, 1003, generator=torch.Generator().manual_seed(1)).bfloat16()
    whole = sketch(tensor)
    monkeypatch.setattr(sketch_module, "BLOCK_ELEMENTS", 1)
    parts = sketch(tensor)
    assert parts.checksum == whole.checksum and parts.max_abs == whole.max_abs
    torch.testing.assert_close(parts.buckets, whole.buckets, rtol=1e-6, atol=1e-6)
    assert torch.equal(parts.buckets, sketch(tensor).buckets)  # run to run: the same bits


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool],
)
def test_every_dtype_and_stride_is_sketched_by_value_and_checked_by_bits(dtype: torch.dtype) -> None:
    tensor = torch.arange(-6, 7).abs().repeat(5, 1).to(dtype)  # (5, 13)
    result = sketch(tensor.T)
    assert result.dtype == str(dtype).removeprefix("torch.")
    assert result.l2 == pytest.approx(tensor.double().norm().item(), rel=1e-6)
    assert result.checksum == sketch(tensor.T.contiguous()).checksum != sketch(tensor).checksum
    assert torch.equal(result.buckets, sketch(tensor.T.float()).buckets)


def test_a_part_of_a_tensor_at_an_odd_address_is_sketched_as_its_copy() -> None:
    tensor = torch.randn(65, generator=torch.Generator().manual_seed(2)).bfloat16()
    for first in (1, 2, 3):
        assert sketch(tensor[first:]).same_bits(sketch(tensor[first:].clone()))


def test_nan_and_infinities_are_counted_and_leave_the_sums_usable() -> None:
    tensor = torch.ones(3, 50)
    tensor[0, 1], tensor[1, 2], tensor[2, 3] = math.nan, math.inf, -math.inf
    result = sketch(tensor)
    assert (result.nan_count, result.inf_count, result.max_abs) == (1, 2, 1.0)
    assert result.l2 == pytest.approx(math.sqrt(147)) and result.mean == pytest.approx(147 / 150)
    assert torch.equal(result.buckets, sketch(tensor.nan_to_num(0.0, 0.0, 0.0)).buckets)


def test_an_empty_tensor_and_a_scalar_have_sketches() -> None:
    empty, scalar = sketch(torch.empty(0, 4)), sketch(torch.tensor(-2.5))
    assert (empty.l2, empty.checksum, empty.mean) == (0.0, 0, 0.0)
    assert (scalar.l2, scalar.mean, scalar.shape) == (2.5, -2.5, ())


def test_what_cannot_be_sketched_is_refused() -> None:
    with pytest.raises(ConfigError, match="power of two from 16 to 1024 buckets; got 48"):
        sketch(torch.ones(4), buckets=48)
    with pytest.raises(ShapeError, match="complex64"):
        sketch(torch.ones(4, dtype=torch.complex64))
    with pytest.raises(ShapeError, match="sparse"):
        sketch(torch.ones(4, 3).to_sparse())


def test_the_tensor_is_not_changed_and_needs_no_gradient() -> None:
    tensor = torch.randn(5, 11, requires_grad=True)
    before = tensor.detach().clone()
    floats, integers = torch.empty(64 + FLOAT_STATISTICS), torch.empty(INTEGER_STATISTICS, dtype=torch.int64)
    sketch_into(tensor, floats, integers)
    assert torch.equal(tensor.detach(), before) and tensor.grad is None
    assert not floats.requires_grad  # nothing of the run is kept alive


def swapped_tokens(x: Tensor) -> Tensor:
    x[:, [4, 9]] = x[:, [9, 4]]
    return x


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "two tokens swapped": swapped_tokens,
    "one sign flipped": lambda x: x.index_put_((torch.tensor(1), torch.tensor(2), torch.tensor(3)), -x[1, 2, 3]),
    "all signs flipped": lambda x: -x,
    "scaled by 1 %": lambda x: x * 1.01,
    "channels rolled": lambda x: x.roll(1, dims=2),
    "tokens rolled": lambda x: x.roll(1, dims=1),
    "batch rolled": lambda x: x.roll(1, dims=0),
    "channels reversed": lambda x: x.flip(2),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_seen_and_its_size_lies_in_the_interval(name: str, dtype: torch.dtype) -> None:
    reference = torch.randn(2, 24, 128, generator=torch.Generator().manual_seed(7)).to(dtype)
    candidate = CHANGES[name](reference.clone())
    a, b = sketch(reference), sketch(candidate)
    assert not a.same_bits(b) and a.checksum != b.checksum
    diff = relative_l2(a, b)
    true = ((candidate.double() - reference.double()).norm() / reference.double().norm()).item()
    assert diff.low <= true <= diff.high and diff.estimate == pytest.approx(true, rel=0.25)


def test_checksums_tell_apart_every_single_bit_and_every_swap_of_two_words() -> None:
    reference = torch.arange(1, 41).bfloat16()
    seen = {sketch(reference).checksum}
    for place in range(40):
        for bit in range(16):
            bits = reference.view(torch.int16).clone()
            bits[place] ^= torch.tensor(1 << bit if bit < 15 else -(1 << 15), dtype=torch.int16)
            seen.add(sketch(bits.view(torch.bfloat16)).checksum)
    for i in range(40):
        for j in range(i):
            swapped = reference.clone()
            swapped[[i, j]] = reference[[j, i]]
            seen.add(sketch(swapped).checksum)
    assert len(seen) == 1 + 40 * 16 + 40 * 39 // 2
    assert sketch(torch.tensor([0.0])).checksum != sketch(torch.tensor([-0.0])).checksum


@pytest.mark.parametrize("width", [512, 520, 1000, 4096])
@pytest.mark.parametrize("buckets", [64, 1024])
def test_a_channel_with_huge_activations_is_spread_over_all_buckets(width: int, buckets: int) -> None:
    """Without turning chunks, 1024 tokens of one channel would all meet in a few buckets."""
    tensor = torch.zeros(1024, width)
    tensor[:, 3] = 1.0
    index = torch.arange(tensor.numel()).view(1024, width)[:, 3]
    vector, e = index // 8, index % 8
    turn = (vector // buckets * GOLDEN % 2**32) >> (32 - int(math.log2(buckets)))
    place = vector % buckets
    place = place - place % 64 + (place % 64 + 29 * (place // 64)) % 64
    shares = torch.bincount((place + turn + e * buckets // 8) % buckets, minlength=buckets) / 1024
    assert shares.square().sum() < 2.5 * (1 / buckets + 1 / 1024)  # chance that two tokens meet, itself included


def pair(kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """A reference and a direction of change, both (33, 512)."""
    generator = torch.Generator().manual_seed(seed)
    reference, change = torch.randn(2, 33, 512, generator=generator)
    if kind == "heavy-tailed":
        reference *= torch.exp(1.5 * torch.randn(33, 512, generator=generator))
        change *= torch.exp(1.5 * torch.randn(33, 512, generator=generator))
    elif kind == "outlier channel":
        reference[:, 5] += 500.0
        change *= 1.0 + 100.0 * (torch.arange(512) == 5)  # most of the change lies in that channel
    elif kind == "outlier beside change":
        reference[:, 5] += 500.0  # the change is elsewhere, and must not drown
        change[:, 5] = 0.0
    elif kind == "scale":
        change = reference.clone()
    elif kind == "offset":
        change = torch.ones(33, 512) * (reference.abs().mean() + seed)
    return reference, change


KINDS = ["gaussian", "heavy-tailed", "outlier channel", "outlier beside change", "scale"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("buckets", "within", "trials"), [(64, 0.25, 200), (1024, 0.07, 60)])
def test_estimates_are_within_the_promise_in_95_percent_of_trials(
    kind: str, buckets: int, within: float, trials: int
) -> None:
    errors, covered = [], 0
    for trial in range(trials):
        reference, change = pair(kind, trial)
        wanted = 10.0 ** (-4.0 * trial / (trials - 1))  # relative L2 from 1 down to 1e-4
        candidate = reference + change * (wanted * reference.norm() / change.norm())
        true = ((candidate.double() - reference.double()).norm() / reference.double().norm()).item()
        diff = relative_l2(sketch(reference, buckets=buckets), sketch(candidate, buckets=buckets))
        errors.append(diff.estimate / true - 1)
        covered += diff.low <= true <= diff.high
    ratios = torch.tensor(errors, dtype=torch.float64)
    assert ratios.abs().quantile(0.95) <= within
    assert covered >= 0.90 * trials
    assert ratios.mean().abs() <= 4 * max(ratios.std().item(), 0.01) / math.sqrt(trials)  # unbiased


def off_in_one_channel(tokens: int, width: int) -> Tensor:
    """Relative errors of 100 estimates at 1024 buckets, each of a change that lies in one channel."""
    errors = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        change = torch.zeros(tokens, width)
        change[:, seed * 7 % width] = torch.randn(tokens, generator=generator)
        reference = torch.randn(tokens, width, generator=generator)
        diff = relative_l2(sketch(reference, buckets=1024), sketch(reference + change, buckets=1024))
        errors.append(abs(diff.estimate * reference.norm().item() / change.norm().item() - 1))
    return torch.tensor(errors)


@pytest.mark.parametrize(("tokens", "width"), [(72, 192), (126, 192), (45, 1536), (96, 1024), (512, 512), (600, 32)])
def test_a_change_in_one_channel_of_few_tokens_meets_itself_no_more_often_than_chance(tokens: int, width: int) -> None:
    assert off_in_one_channel(tokens, width).quantile(0.95) <= 0.07


def test_without_stirring_places_the_promise_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch_module, "STIR", 0)
    sketch_module.chunk_pattern.cache_clear()
    off = off_in_one_channel(72, 192)
    sketch_module.chunk_pattern.cache_clear()
    assert off.quantile(0.95) > 0.09


def test_without_turning_chunks_the_promise_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that do not turn let one channel meet itself: the spread of the estimate grows several times."""
    monkeypatch.setattr(sketch_module, "GOLDEN", 0)
    sketch_module.chunk_pattern.cache_clear()
    errors = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        change = torch.zeros(200, 512)
        change[:, 5] = torch.randn(200, generator=generator)
        reference = torch.randn(200, 512, generator=generator)
        diff = relative_l2(sketch(reference), sketch(reference + change))
        errors.append(abs(diff.estimate * reference.norm().item() / change.norm().item() - 1))
    sketch_module.chunk_pattern.cache_clear()
    assert torch.tensor(errors).quantile(0.95) > 0.5


def test_a_change_of_the_mean_alone_is_measured() -> None:
    reference = torch.randn(64, 1024, generator=torch.Generator().manual_seed(5))
    for offset in (1.0, -0.01):
        diff = relative_l2(sketch(reference), sketch(reference + offset))
        true = (abs(offset) * 256 / reference.norm()).item()
        assert diff.low <= true <= diff.high


def test_an_oracle_in_fp32_is_compared_with_a_run_in_bf16() -> None:
    oracle = torch.randn(17, 640, generator=torch.Generator().manual_seed(9))
    rounded = oracle.bfloat16()
    true = ((rounded.double() - oracle.double()).norm() / oracle.double().norm()).item()
    diff = relative_l2(sketch(oracle), sketch(rounded))
    assert not diff.bit_equal and diff.low <= true <= diff.high


def test_rows_are_written_in_place() -> None:
    floats, integers = torch.full((2, 67), math.nan), torch.full((2, 3), -1)
    tensor = torch.randn(4, 33)
    sketch_into(tensor, floats[1], integers[1])
    whole: TapSketch = sketch(tensor)
    assert torch.equal(floats[1, :64], whole.buckets) and integers[1].tolist() == [whole.checksum, 0, 0]
    assert floats[0].isnan().all() and integers[0].tolist() == [-1, -1, -1]


@pytest.fixture
def no_kernel_yet() -> Iterator[None]:
    sketch_module.triton_kernel.cache_clear()
    yield
    sketch_module.triton_kernel.cache_clear()


@pytest.mark.usefixtures("no_kernel_yet")
def test_without_triton_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "parity.trace.sketch_triton", raising=False)
    assert sketch_module.triton_kernel() is None


@pytest.mark.usefixtures("no_kernel_yet")
def test_a_kernel_of_ours_that_is_missing_is_no_reason_to_go_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "parity.trace.sketch_triton", None)
    with pytest.raises(ModuleNotFoundError, match="sketch_triton"):
        sketch_module.triton_kernel()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1000, (1 << 18) + 3])
def test_the_checksum_alone_is_that_of_the_sketch(dtype: torch.dtype, count: int) -> None:
    tensor = (torch.rand(count + 1) * 200).to(dtype)[1:]  # begins where no 32-bit word does
    assert checksum_of(tensor) == sketch(tensor).checksum
