"""Official and native in lockstep: nothing is added where nothing is wrong, and a defect shows at its place alone."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
from msgspec import structs
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.calibrate.isolated_floors import place_of_group
from parity.explain.oracle import Arbitration
from parity.isolate.error import ErrorTable, IsolatedError, error_of
from parity.isolate.isolation import Isolation, isolate
from parity.taps.dataflow import Dataflow
from parity.taps.isolated_places import isolated_places
from parity.taps.name import STREAMS
from runners.case import Case
from runners.clock import STAGES, Quiet
from runners.errors import CheckpointError, ConfigError
from runners.ltx23 import attention, pipeline
from runners.ltx23.connectors import TextConnectors
from runners.ltx23.euler import euler_step
from runners.ltx23.guidance import combine
from runners.ltx23.loading import load
from runners.ltx23.passes import GuidancePass, passes_of_step
from runners.ltx23.stages import denoising
from runners.ltx23.transformer import Skips, Transformer
from runners.official.lockstep import SharedTensors
from runners.protocol import RunOptions
from runners.weights import WeightsFolder
from tests.parity.model_changes import audio_positions_doubled, perturbed_one_late, video_keys_not_normed

pytestmark = pytest.mark.slow

OPTIONS = RunOptions(device=torch.device("cpu"))
Measure = Callable[..., Isolation]
UNGUIDED = {"cfg_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0}


@pytest.fixture(scope="module")
def measure(micro_weights: WeightsFolder, micro_case: Callable[..., Case]) -> Measure:
    def measure_one(overrides: dict[str, Any] | None = None, **choices: Any) -> Isolation:
        return isolate(micro_weights, micro_case(overrides), OPTIONS, **choices)

    return measure_one


def test_native_adds_nothing_anywhere_and_everything_is_looked_at(
    measure: Measure, micro_case: Callable[..., Case]
) -> None:
    overrides = {
        "request.images": [{"path": "astronaut.png", "strength": 0.7}, {"path": "coffee.jpg", "frame_idx": 3}],
        "guidance.video.skip_step": 1,
        "switches.skip_v2a_cross_attn_for_video_gt": True,
    }
    found = measure(overrides, harmless=False, inherited={"init/video": 0.25})
    assert found.bit_equal and found.culprits == (), [row for row in found.rows if row.error][:5]
    places = [row.where for row in found.rows]
    assert sorted(places) == sorted(isolated_places(Dataflow(micro_case(overrides), 2), (0, 1)))
    extra = {"sigmas", "image/1/picture", "init/video/positions", "denoise/001/isolated/rotary/audio/cross"}
    assert extra | {"denoise/000/uncond/modulation/video/cross_gate", "text/neg/mask"} <= set(places)
    document = found.document()
    assert document["bit_equal"] is True
    assert [row["inherited"] for row in document["rows"] if row["where"] == "init/video"] == [0.25]


@pytest.mark.parametrize("pipeline", ["two_stage", "keyframes"])  # an encoder for each stage, and one for both
def test_both_stages_are_looked_at_and_what_is_between(
    pipeline: str, measure: Measure, micro_case: Callable[..., Case]
) -> None:
    overrides = {
        "pipeline": pipeline,
        "request.height": 64,
        "request.width": 128,
        "request.images": [{"path": "astronaut.png", "strength": 0.7}, {"path": "coffee.jpg", "frame_idx": 3}],
        "stages.second.sigmas": [0.8, 0.3, 0],
    }
    found = measure(overrides, harmless=False)
    assert found.bit_equal, [row for row in found.rows if row.error][:5]
    places = [row.where for row in found.rows]
    assert sorted(places) == sorted(isolated_places(Dataflow(micro_case(overrides), 2), (0, 1)))
    second = {"stage2/sigmas", "stage2/image/1/picture", "stage2/init/audio/clean", "stage2/denoise/001/guided/video"}
    assert second | {"upsample/latent", "stage2/denoise/000/cond/rotary/audio/cross"} <= set(places)


def test_what_is_between_stages_is_looked_at_alone(measure: Measure) -> None:
    overrides = {"pipeline": "two_stage", "request.width": 128, "stages.second.sigmas": [0.8, 0]}
    found = measure(overrides, harmless=False, stages=["upsampling"])
    assert {row.where for row in found.rows} == {"upsample/latent"} and found.bit_equal


@pytest.mark.parametrize(
    "overrides",
    [
        {"guidance.video.skip_step": 1, "guidance.audio.skip_step": 1},  # the second step has no pass
        {"guidance.audio.skip_step": 1, "guidance.video.stg_blocks": [0, 1]},
        {f"guidance.{stream}.{key}": value for stream in STREAMS for key, value in UNGUIDED.items()},
    ],
    ids=["skipped", "one skipped", "unguided"],
)
def test_the_places_of_an_isolation_follow_from_the_case(
    measure: Measure, micro_case: Callable[..., Case], overrides: dict[str, Any]
) -> None:
    for steps in ((0, 1), (1,)):
        places = [row.where for row in measure(overrides, harmless=False, steps=steps).rows]
        assert sorted(places) == sorted(isolated_places(Dataflow(micro_case(overrides), 2), steps))


@pytest.mark.parametrize(
    ("choices", "last", "steps"),
    [
        ({"stages": ["denoising", "audio_decoding"], "steps": [0]}, "video_decoding", 2),  # decoding is fed all steps
        ({"stages": ["denoising"]}, "denoising", 2),
        ({"stages": ["text_connector", "denoising"], "steps": [0]}, "denoising", 1),
        ({"stages": ["latent_preparation"]}, "denoising", 0),
    ],
    ids=["decoding", "denoising", "a step", "no step"],
)
def test_the_official_run_ends_with_the_last_that_is_measured(
    choices: dict[str, Any], last: str, steps: int, measure: Measure, micro_case: Callable[..., Case]
) -> None:
    told = SimpleNamespace(stages=[], steps=0)

    class Listening(Quiet):
        def stage(self, name: str) -> None:
            told.stages.append(name)

        def step(self, index: int, count: int) -> None:
            told.steps += 1

    found = measure(harmless=False, progress=Listening(), **choices)
    assert (told.stages[-1], told.steps) == (last, steps)
    every = isolated_places(Dataflow(micro_case(), 2), choices.get("steps", (0, 1)))
    denoising = [
        place for place in every if place.startswith("denoise/") and "denoising" in choices.get("stages", STAGES)
    ]
    assert sorted(row.where for row in found.rows if row.where.startswith("denoise/")) == sorted(denoising)


def test_a_faster_tier_is_not_isolated_as_if_it_were_the_exact_one(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    with pytest.raises(ConfigError, match="tried by `parity admit`"):
        isolate(micro_weights, micro_case(), replace(OPTIONS, tier="fast"))


def int8_scores() -> AbstractContextManager[Any]:
    """Queries and keys rounded to 255 levels a token, as int8 kernels of attention do."""

    def rounded(x: Tensor) -> Tensor:
        scale = x.float().abs().amax(dim=-1, keepdim=True) / 127
        return (x.float() / scale).round() * scale

    def attend(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        scores = rounded(queries) @ rounded(keys).mT / queries.shape[-1] ** 0.5
        return scores.softmax(dim=-1).to(values.dtype) @ values

    return patch.object(attention, "F", SimpleNamespace(scaled_dot_product_attention=attend))


def euler_in_bf16() -> AbstractContextManager[Any]:
    def step(latent: Tensor, x0: Tensor, sigma: float, change: float) -> Tensor:
        return latent + ((latent - x0) / sigma) * change

    return patch.object(denoising, "euler_step", step)


def test_int8_scores_are_beyond_other_exact_kernels_and_their_branch_is_no_origin(measure: Measure) -> None:
    def alone(found: Isolation) -> list[float]:
        return [row.error for row in found.rows if row.where.endswith("/video/self_attn/sdpa")]

    exact = measure(stages=["denoising"], harmless=False, around=partial(sdpa_kernel, SDPBackend.MATH))
    with int8_scores():
        int8 = measure(stages=["denoising"])
    assert len(alone(exact)) == len(alone(int8)) == 2 * 7, "two blocks in four passes, one of them perturbed in one"
    assert 0 < 2 * max(alone(exact)) < min(alone(int8))
    assert all(row.harmless for row in int8.rows if row.where.endswith("/sdpa"))
    origins = {row.where for row in int8.origins}
    assert "denoise/000/cond/block/00/video/self_attn/sdpa" in origins
    assert "denoise/000/cond/block/00/video/self_attn" not in origins


def test_an_euler_step_in_bf16_is_beyond_its_ulps_and_nowhere_else(measure: Measure) -> None:
    with euler_in_bf16():
        found = measure(stages=["denoising"], harmless=False)
    wrong = {row.where: row.error for row in found.rows if row.error != 0}
    assert set(wrong) == {f"denoise/{step:03d}/latent/{stream}" for step in range(2) for stream in ("video", "audio")}
    bound = place_of_group("latent.video").bound
    assert bound is not None
    # The last step goes to x0, whatever velocity was rounded to on the way.
    assert all(error > 5 * bound for where, error in wrong.items() if where.startswith("denoise/000/"))


def test_what_is_entered_around_the_candidate_is_left_while_the_reference_computes(measure: Measure) -> None:
    entered: list[bool] = []

    @contextmanager
    def around() -> Iterator[None]:
        assert not entered or not entered[-1]
        entered.append(True)
        yield
        entered[-1] = False

    official = measure(harmless=False, around=around)
    assert official.bit_equal and len(entered) > 50 and not any(entered)


def test_floor_and_oracle_stand_beside_a_block(measure: Measure) -> None:
    found = measure(stages=["denoising"], steps=[1], blocks=[1], oracle=True)
    assert {row.where[:22] for row in found.rows} == {
        f"denoise/001/{name}/block/01/"[:22] for name in ("cond", "uncond", "perturbed", "isolated")
    }
    for row in (row for row in found.rows if not row.where.endswith("/sdpa")):  # not tried against fp32
        assert row.error == 0 and row.oracle is not None and row.oracle.candidate == row.oracle.official
        assert 1e-4 < row.oracle.official < 0.1  # bf16 against fp32
        # In the perturbed pass video's values pass through block 1, so that no attention kernel is run.
        assert row.harmless is not None and 0 <= row.harmless < 0.1
    assert max(row.harmless or 0 for row in found.rows) > 1e-4


def cfg_scale_one_too_large() -> AbstractContextManager[Any]:
    def combined(guider: Any, *passes: Any, in_fp32: bool) -> Tensor:
        guided: Tensor = cast(Any, combine)(
            structs.replace(guider, cfg_scale=guider.cfg_scale + 1), *passes, in_fp32=in_fp32
        )
        return guided

    return patch.object(denoising, "combine", combined)


def euler_steps_short() -> AbstractContextManager[Any]:
    return patch.object(denoising, "euler_step", lambda x, x0, sigma, change: euler_step(x, x0, sigma, change * 0.9))


PASSES = ("cond", "uncond", "perturbed", "isolated")


@pytest.mark.parametrize(
    ("defect", "wanted"),
    [
        (audio_positions_doubled, {f"denoise/001/{name}/rotary/audio/cross" for name in PASSES}),
        (
            perturbed_one_late,  # the micro case perturbs block 0 of audio and block 1 of video
            {f"denoise/001/perturbed/block/{tail}/self_attn" for tail in ("00/audio", "01/audio", "01/video")},
        ),
        (partial(video_keys_not_normed, 0), {f"denoise/001/{name}/block/00/video/self_attn" for name in PASSES}),
        (cfg_scale_one_too_large, {f"denoise/001/guided/{stream}" for stream in ("video", "audio")}),
        (euler_steps_short, {f"denoise/001/latent/{stream}" for stream in ("video", "audio")}),
    ],
)
def test_a_defect_adds_error_at_its_own_place_alone(
    measure: Measure, defect: Callable[[], AbstractContextManager[Any]], wanted: set[str]
) -> None:
    with defect():
        found = measure(stages=["denoising"], steps=[1], harmless=False)
    assert {row.where for row in found.origins} == wanted
    # What is downstream of the defect, but not in its block, got the reference's inputs and has its bits.
    assert all(row.error == 0 for row in found.rows if not _beside(row.where, wanted))


def _beside(where: str, wanted: set[str]) -> bool:
    """True if a place is one of those wanted, or in the same block as one."""
    return where in wanted or any("/block/" in name and _block(where) == _block(name) for name in wanted)


def _block(where: str) -> list[str]:
    return where.split("/")[:5]


def passes_changed(change: Callable[[tuple[GuidancePass, ...]], tuple[GuidancePass, ...]]) -> Any:
    return patch.object(denoising, "passes_of_step", lambda *call, **options: change(passes_of_step(*call, **options)))


def last_block_left_out() -> AbstractContextManager[Any]:
    original = Transformer.forward

    def forward(self: Transformer, *call: Any, **options: Any) -> Any:
        with patch.object(self, "transformer_blocks", self.transformer_blocks[:1]):
            return original(self, *call, **options)

    return patch.object(Transformer, "forward", forward)


NO_BLOCK, NO_PASS = "the candidate does not run this block in this pass", "the candidate does not run this pass"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            lambda: passes_changed(lambda passes: passes[:3]),
            {"isolated/block/00": NO_BLOCK, "isolated/block/01": NO_BLOCK, "isolated/x0/video": NO_PASS},
        ),
        (last_block_left_out, {f"{name}/block/01": NO_BLOCK for name in PASSES}),
        (
            lambda: passes_changed(lambda passes: (replace(passes[0], skips=Skips(v2a=True)), *passes[1:])),
            {f"cond/block/0{block}/audio/av_attn": "the candidate does not run this branch" for block in range(2)},
        ),
        (
            lambda: passes_changed(lambda passes: (*passes[:3], replace(passes[3], skips=Skips(a2v=True)))),
            {f"isolated/block/0{block}/audio/av_attn": "the reference does not run this branch" for block in range(2)},
        ),
        (
            lambda: passes_changed(lambda passes: (*passes[:3], replace(passes[3], video_enabled=False))),
            {"isolated/enabled/video": "reference True, candidate False"},
        ),
        (
            lambda: passes_changed(lambda passes: (*passes, replace(passes[0], name="another"))),
            {"another": "the reference does not run this pass"},
        ),
    ],
    ids=["pass", "block", "branch", "branch-too-many", "modality", "pass-too-many"],
)
def test_what_only_one_side_runs_is_named_and_never_equal(
    change: Callable[[], AbstractContextManager[Any]], wanted: dict[str, str], measure: Measure
) -> None:
    with change():
        found = measure(stages=["denoising"], steps=[1], harmless=False)
    missing = {row.where: row.note for row in found.rows if math.isnan(row.error)}
    assert missing == {f"denoise/001/{where}": note for where, note in wanted.items()}
    assert not found.bit_equal
    # A step with a pass too many is compared up to its predictions, which nothing can be combined from.
    combined = [row for row in found.rows if "/guided/" in row.where or "/latent/" in row.where]
    assert len(combined) == (0 if "another" in wanted else 4)


def test_changed_weights_are_a_copys_and_show_where_they_are(measure: Measure) -> None:
    def changed(module: nn.Module, *args: Any) -> nn.Module:
        loaded = load(module, *args)
        if isinstance(loaded, TextConnectors):
            loaded.audio_connector.learnable_registers.mul_(1.5)
        return loaded

    with patch.object(pipeline, "load", changed):
        found = measure(stages=["text_encoding", "text_connector", "latent_preparation"], copies=True)
    assert [row.where for row in found.culprits] == ["connector/pos/audio", "connector/neg/audio"]


def test_the_candidate_computes_with_the_references_own_tensors() -> None:
    official = nn.Linear(3, 2)

    class Source:
        shapes = {"model.weight": (2, 3), "model.bias": (2,), "elsewhere": (5,)}  # noqa: RUF012

        def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
            raise AssertionError("nothing is read from the file")

    def key(name: str) -> str | None:
        return name.removeprefix("model.") if name.startswith("model.") else None

    names = ["model.bias", "model.weight"]
    shared, copied = SharedTensors(Source()), SharedTensors(Source(), copies=True)
    shared.hold(official, key)
    copied.hold(official, key)
    assert shared.shapes == Source.shapes
    assert shared.read(names, OPTIONS.device)["model.weight"].data_ptr() == official.weight.data_ptr()
    assert copied.read(names, OPTIONS.device)["model.weight"].data_ptr() != official.weight.data_ptr()
    with pytest.raises(CheckpointError, match="elsewhere"):
        shared.read(["elsewhere"], OPTIONS.device)
    shared.release()
    with pytest.raises(CheckpointError, match=r"model\.bias"):
        shared.read(names, OPTIONS.device)


@pytest.mark.parametrize(
    "choices", [{"stages": ["denoise"]}, {"stages": []}, {"steps": [2]}, {"blocks": [-1]}, {"steps": []}]
)
def test_what_there_is_not_cannot_be_measured(measure: Measure, choices: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        measure(**choices)


def test_error_of_tensors() -> None:
    x = torch.tensor([3.0, 4.0])
    assert error_of(x, x.clone()) == 0.0
    assert error_of(x, torch.tensor([3.0, 4.5])) == pytest.approx(0.1)
    assert error_of(torch.zeros(2), x) == math.inf
    assert error_of(torch.zeros(2), -torch.zeros(2)) == 0.0
    for bad in (torch.ones(3), torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, 1.0])):
        assert math.isnan(error_of(x, bad))
    assert math.isnan(error_of(x * math.inf, x * math.inf))
    table = ErrorTable()
    table.compare("here", x, torch.ones(3))
    table.compare("there", x, x * math.nan)
    assert [row.note for row in table.rows] == [
        "reference is (2,), candidate is (3,)",
        "the candidate holds values that are not finite",
    ]


def test_only_what_exceeds_harmless_noise_is_a_culprit(micro_case: Callable[..., Case]) -> None:
    flow = Dataflow(micro_case(), 2)
    rows = (
        IsolatedError(where="a", error=0.02, harmless=0.01),
        IsolatedError(where="b", error=0.04, harmless=0.01),
        IsolatedError(where="c", error=1e-9),
        IsolatedError(where="d", error=0.0),
        IsolatedError(where="e", error=math.nan, note="no such pass"),
        IsolatedError(where="f", error=0.01, harmless=0.01, oracle=Arbitration(candidate=0.1, official=0.2)),
    )
    found = Isolation(rows=rows, inherited={}, flow=flow, provenance={})
    assert [row.where for row in found.culprits] == ["b", "c", "e"]
    assert not found.bit_equal and not Isolation(rows=(), inherited={}, flow=flow, provenance={}).bit_equal
    assert found.document()["rows"][-1]["ratio_to_oracle"] == 0.5
