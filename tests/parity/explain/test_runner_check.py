"""A runner that is wrong in one way is told which way; each is made from a right one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.explain.runner_check import Flaw, Heard, check_run, hear, layout_hint, protocol_flaws, switch_flaws
from parity.taps.dataflow import Dataflow
from runners.case import Case
from runners.errors import MediaError, RunnerError
from runners.native.runner import NativeRunner
from runners.protocol import Capabilities, RunOptions
from runners.weights import WeightsFolder, num_blocks

OPTIONS = RunOptions(device=torch.device("cpu"))
X0 = "denoise/000/cond/x0/video"


class Bench:
    """One right run, and checks of copies of it that are wrong somewhere."""

    def __init__(self, weights: WeightsFolder, case: Case) -> None:
        self.weights, self.case = weights, case
        self.runner = NativeRunner(weights, OPTIONS)
        self.right = hear(self.runner, case)
        self.flow = Dataflow(case, num_blocks(weights))

    def check(
        self,
        change: Callable[[dict[str, Tensor]], Any] = lambda taps: None,
        offered: tuple[str, ...] = ("*",),
        **made: Any,
    ) -> list[Flaw]:
        taps = dict(self.right.taps)
        change(taps)
        heard = Heard(outcome=replace(self.right.outcome, **made), taps=taps)
        capabilities = replace(self.runner.capabilities, taps=offered)
        flaws, _ = check_run(heard, self.right, capabilities, self.case, self.flow, self.weights.config)
        return flaws


@pytest.fixture(scope="module")
def bench(micro_weights: WeightsFolder, micro_case: Callable[..., Case]) -> Bench:
    return Bench(micro_weights, micro_case())


def only(flaws: list[Flaw]) -> tuple[str, str, str]:
    assert len(flaws) == 1, flaws
    return flaws[0].kind, flaws[0].where, f"{flaws[0].got} | {flaws[0].hint}"


def test_a_right_run_has_no_flaw(bench: Bench) -> None:
    assert bench.check() == []
    assert set(bench.right.taps) == set(bench.flow.taps)


@pytest.mark.parametrize(
    ("tap", "change", "kind", "said"),
    [
        (X0, lambda x: x.transpose(1, 2), "shape", "axes exchanged: permute(0, 2, 1)"),
        (X0, lambda x: x.reshape(1, 2, 2, 3, 128), "shape", "the same number of values"),
        (X0, lambda x: x.repeat(4, 1, 1), "shape", "4 samples at once: tap each pass by itself"),
        (X0, lambda x: x[0], "shape", "unsqueeze(0)"),
        (X0, lambda x: x.float(), "dtype", "float32"),
        (X0, lambda x: x.clone().fill_(float("nan")), "not_finite", "NaN"),
        ("init/video", lambda x: x.flip(1), "layout", "the same values, axis 1 in another order"),
        ("init/audio", lambda x: x.roll(1, 2), "layout", "the same values, axis 2 in another order"),
        (X0, lambda x: x.flip(1) * 1.01, "layout", "nearly the same values, axis 1 in another order"),
        ("init/video", lambda x: x.reshape(1, 128, -1).transpose(1, 2).contiguous(), "layout", "laid out otherwise"),
        (X0, lambda x: x * 1.5, "value", "relative L2 0.5"),
    ],
)
def test_a_tap_that_is_wrong_is_told_how(bench: Bench, tap: str, change: Any, kind: str, said: str) -> None:
    def wrong(taps: dict[str, Tensor]) -> None:
        taps[tap] = change(taps[tap])

    found = only(bench.check(wrong))
    assert found[:2] == (kind, tap) and said in found[2], found


def test_padding_is_recognised(bench: Bench) -> None:
    def padded(taps: dict[str, Tensor]) -> None:
        real = taps["text/pos/hidden"]
        window = torch.zeros(1, 1024, *real.shape[2:], dtype=real.dtype)
        window[:, -real.shape[1] :] = real
        taps["text/pos/hidden"] = window

    kind, where, said = only(bench.check(padded))
    assert (kind, where) == ("shape", "text/pos/hidden") and "real_tokens" in said


def test_a_pass_under_the_name_of_another_is_named(bench: Bench) -> None:
    """The passes of a small model lie near each other, so one of them is made another here, on both sides."""
    other = "denoise/000/uncond/x0/video"
    drawn = torch.randn(bench.right.taps[X0].shape).bfloat16()
    truth = replace(bench.right, taps={**bench.right.taps, other: drawn})
    heard = replace(truth, taps={**truth.taps, X0: drawn})
    flaws, _ = check_run(heard, truth, bench.runner.capabilities, bench.case, bench.flow, bench.weights.config)
    kind, where, said = only(flaws)
    assert (kind, where) == ("other_pass", X0) and other in said


def test_only_the_first_place_that_departs_is_named_also_past_taps_that_are_not_offered(bench: Bench) -> None:
    latents = [tap for tap in bench.flow.taps if "/latent/video" in tap]

    def wrong(taps: dict[str, Tensor]) -> None:
        for tap in list(taps):
            if "x0" in tap or "guided" in tap:
                del taps[tap]
        for tap in ("init/video", *latents):
            taps[tap] = taps[tap] * 3

    offered = ("text/*", "connector/*", "init/*", "denoise/*/block/*", "denoise/*/latent/*", "decode/*")
    assert only(bench.check(wrong, offered))[:2] == ("value", "init/video")


def test_names_are_held_to_the_case_and_to_what_is_offered(bench: Bench) -> None:
    def misnamed(taps: dict[str, Tensor]) -> None:
        taps["denoise/0/cond/x0/video"] = taps.pop(X0)

    unknown, missing = bench.check(misnamed)
    assert (unknown.kind, unknown.hint) == ("unknown_tap", f"perhaps {X0}")
    assert (missing.kind, missing.where) == ("missing_tap", X0)
    assert {flaw.kind for flaw in bench.check(offered=("init/*",))} == {"undeclared_tap"}
    heard = Heard(outcome=bench.right.outcome, taps=dict(bench.right.taps), repeated=[X0, X0])
    flaws, _ = check_run(heard, bench.right, bench.runner.capabilities, bench.case, bench.flow, bench.weights.config)
    assert only(flaws)[:2] == ("repeated_tap", X0)


def test_the_order_of_calls_is_held_to_the_data_flow(bench: Bench) -> None:
    def late(taps: dict[str, Tensor]) -> None:
        taps["init/audio"] = taps.pop("init/audio")  # last of all

    kind, where, said = only(bench.check(late))
    assert kind == "order" and where.startswith("denoise/000/cond/block/00/") and "init/audio" in said


def test_outputs_are_held_to_the_case(bench: Bench) -> None:
    outcome = bench.right.outcome
    wrong: dict[str, tuple[Any, str]] = {
        "video_frames": (outcome.video_frames.permute(0, 3, 1, 2), "axes exchanged"),
        "audio_waveform": (outcome.audio_waveform.double(), "float64"),
        "audio_latent": (None, "NoneType"),
        "sample_rate_hz": (44100, "44100"),
        "sigmas": (torch.linspace(1, 0, 3), "1, 0.5, 0"),
    }
    for name, (value, said) in wrong.items():
        kind, where, told = only(bench.check(**{name: value}))
        assert (kind, where) == ("output", name) and said in told


def test_a_switch_that_is_declared_must_do_something(bench: Bench) -> None:
    flag = "skip_v2a_cross_attn_for_video_gt"
    nothing = switch_flaws(flag, bench.right, bench.right)
    assert [flaw.kind for flaw in nothing] == ["switch", "switch"] and "/audio/av_attn" in nothing[0].got
    off = bench.weights, bench.case
    case = replace_switch(off[1], flag)
    assert switch_flaws(flag, bench.right, hear(NativeRunner(bench.weights, OPTIONS), case)) == []


def replace_switch(case: Case, flag: str) -> Case:
    import msgspec

    return msgspec.structs.replace(case, switches=msgspec.structs.replace(case.switches, **{flag: True}))


def test_what_is_no_runner_is_told_what_it_lacks() -> None:
    class Empty:
        capabilities = "all"

    assert [(flaw.where, flaw.got) for flaw in protocol_flaws(Empty())] == [
        ("name", "nothing"),
        ("capabilities", "str"),
        ("__enter__", "nothing"),
        ("__exit__", "nothing"),
        ("run", "nothing"),
    ]


def test_an_error_of_the_engine_is_said_with_its_line_and_one_of_ours_stays_what_it_is(bench: Bench) -> None:
    class Engine:
        name = "engine"
        capabilities: Capabilities = bench.runner.capabilities
        raised: Exception = ZeroDivisionError("no steps")

        def __enter__(self) -> "Engine":
            return self

        def __exit__(self, *_: object) -> None: ...

        def run(self, case: Case, progress: object) -> Any:
            raise self.raised

    engine: Any = Engine()
    with pytest.raises(RunnerError, match=r"'engine' failed at test_runner_check.py:\d+: ZeroDivisionError: no steps"):
        hear(engine, bench.case)
    engine.raised = MediaError("no picture")
    with pytest.raises(MediaError, match="no picture"):
        hear(engine, bench.case)
    engine.run = lambda case, progress: 3
    with pytest.raises(RunnerError, match="returned int; return an Outcome"):
        hear(engine, bench.case)


def test_other_values_have_no_layout() -> None:
    one, other = torch.randn(1, 7, 11), torch.randn(1, 7, 11)
    assert layout_hint(one, other) == ""
