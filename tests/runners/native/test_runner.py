"""The native runner: how options are resolved and reach the model, what a run records, and what is refused."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from runners.case import Case
from runners.clock import STAGES, UPSAMPLING
from runners.errors import CaseError, ConfigError, MediaError, ParityError, RunnerError
from runners.native.request import sampling_params
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.releases import ReleaseBehaviours
from runners.weights import WeightsFolder

CPU = torch.device("cpu")
BF16 = RunOptions(device=CPU)
PICTURE = {"request.images": [{"path": "coffee.jpg", "strength": 0.9}]}
UNDER_AUTOCAST = {"Transformer", "VideoDecoder", "AudioDecoder", "ExtendedVocoder"}
NEVER = {"GemmaEncoder", "Gemma3TextModel", "TextConnectors", "VideoEncoder"}

RUN = ((None, None, None), (False, None, None), (None, False, True))  # default, asked for, asked for and taken back

Run = Callable[..., Any]
MakeCase = Callable[..., Case]


@contextmanager
def autocast_seen() -> Iterator[dict[str, set[bool]]]:
    """Names of modules that run, with whether autocast was on."""
    seen: dict[str, set[bool]] = {}

    def look(module: nn.Module, _: Any) -> None:
        seen.setdefault(type(module).__name__, set()).add(torch.is_autocast_enabled("cpu"))

    handle = register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("in_case", "override", "command_line", "disabled"),
    [
        (None, None, None, True),  # the default: no autocast, as in the official run
        (True, None, None, True),
        (False, None, None, False),
        (False, True, None, True),
        (True, False, None, False),
        (None, False, True, True),  # the command line wins
        (None, True, False, False),
        (False, None, True, True),
        (True, None, False, False),
        (False, False, None, False),
    ],
)
def test_disable_autocast_is_preserved_after_pipeline_config_resolution(
    in_case: bool | None,
    override: bool | None,
    command_line: bool | None,
    disabled: bool,
    micro_weights: WeightsFolder,
    micro_case: MakeCase,
    run: Run,
) -> None:
    case = micro_case(PICTURE | ({} if in_case is None else {"switches.disable_autocast": in_case}))
    later = ReleaseBehaviours(guidance_fp32=True)
    overrides = None if override is None else {"disable_autocast": override, "reference": later}
    runner = NativeRunner(micro_weights, BF16, overrides, {"disable_autocast": command_line})
    config = runner.pipeline_config(case)
    assert config.disable_autocast is disabled
    assert config.reference == (ReleaseBehaviours() if override is None else later)  # its neighbour survives as well
    with config.autocast(CPU):
        assert torch.is_autocast_enabled("cpu") is not disabled
    if (in_case, override, command_line) not in RUN:
        return
    with autocast_seen() as seen:
        executed = run(runner, case)
    for name in UNDER_AUTOCAST:  # the denoising loop and the decoders
        assert seen[name] == {not disabled}, name
    for name in NEVER:
        assert seen[name] == {False}, name
    if disabled:
        assert set().union(*seen.values()) == {False}
    assert executed.outcome.details["disable_autocast"] is disabled


def test_autocast_in_fp32_is_refused_as_a_contradiction(micro_weights: WeightsFolder, micro_case: MakeCase) -> None:
    runner = NativeRunner(micro_weights, RunOptions(device=CPU, dtype=torch.float32))
    with pytest.raises(ConfigError, match=r"autocast computes in bf16, but dtype is torch.float32"):
        runner.pipeline_config(micro_case({"switches.disable_autocast": False}))


def test_a_run_records_what_it_was(micro_weights: WeightsFolder, micro_case: MakeCase, run: Run) -> None:
    options = dataclasses.replace(BF16, behaviours={"guidance_fp32": True, "positions_fp32": False})
    case = micro_case({"switches.skip_v2a_cross_attn_for_video_gt": True})
    outcome = run(NativeRunner(micro_weights, options), case).outcome
    assert outcome.details["skip_v2a_cross_attn_for_video_gt"] is True
    assert outcome.details["disable_autocast"] is True
    assert outcome.details["behaviours"] == {"guidance_fp32": True}
    assert set(STAGES) - {"image_conditioning", UPSAMPLING} | {"load"} == outcome.stage_s.keys()
    assert len(outcome.step_s) == 2 and all(seconds > 0 for seconds in outcome.step_s)
    assert outcome.peak_bytes > 0 and outcome.frame_rate == 45.0 and outcome.sample_rate_hz == 48000
    assert outcome.video_frames.shape == (9, 64, 96, 3)


def test_the_release_of_the_case_is_followed_with_single_behaviours_over_it(
    micro_weights: WeightsFolder, micro_case: MakeCase
) -> None:
    assert NativeRunner(micro_weights, BF16).pipeline_config(micro_case()).reference == ReleaseBehaviours()
    options = dataclasses.replace(BF16, behaviours={"vocoder_fp32": True})
    assert NativeRunner(micro_weights, options).pipeline_config(micro_case()).reference == ReleaseBehaviours(
        vocoder_fp32=True
    )


def test_a_case_gives_the_request_that_it_records(micro_case: MakeCase, pictures: Path) -> None:
    sampling = sampling_params(micro_case(PICTURE | {"request.negative_prompt": None, "request.seed": 77}))
    assert sampling.negative_prompt.startswith("blurry, out of focus") and sampling.seed == 77
    assert sampling.images[0].path == str((pictures / "coffee.jpg").resolve()) and sampling.images[0].strength == 0.9
    assert sampling.video_guidance.stg_blocks == (1,) and sampling.audio_guidance.cfg_scale == 7.0
    assert not sampling.skip_v2a_cross_attn_for_video_gt
    without_v2a = sampling_params(micro_case({"switches.skip_v2a_cross_attn_for_video_gt": True}))
    assert without_v2a.negative_prompt == "blurry, silent" and without_v2a.skip_v2a_cross_attn_for_video_gt


@pytest.mark.parametrize(
    ("overrides", "error", "sentence"),
    [
        ({"reference": "custom"}, RunnerError, r"does not run reference release 'custom'; it runs 1.0.0"),
        ({"request.images": [{"path": "none.png"}]}, CaseError, r"'none.png' of case 'micro' is not a file"),
        ({"request.images": [{"path": "bad.png"}]}, MediaError, r"bad.png cannot be decoded as a picture"),
    ],
)
def test_what_it_cannot_run_is_refused_before_the_text_is_encoded(
    overrides: dict[str, Any],
    error: type[ParityError],
    sentence: str,
    micro_weights: WeightsFolder,
    micro_case: MakeCase,
    pictures: Path,
    run: Run,
) -> None:
    (pictures / "bad.png").write_text("this is no picture")
    with autocast_seen() as seen, pytest.raises(error, match=sentence):
        run(NativeRunner(micro_weights, BF16), micro_case(overrides))
    assert "Gemma3TextModel" not in seen


def test_options_that_no_pipeline_has_are_refused(micro_weights: WeightsFolder, micro_case: MakeCase, run: Run) -> None:
    with pytest.raises(ConfigError, match="Unknown pipeline option disable_autocats"):
        run(NativeRunner(micro_weights, BF16, {"disable_autocats": True}), micro_case())
    with pytest.raises(ConfigError, match="disable_autocast is 'yes'; wanted true or false"):
        run(NativeRunner(micro_weights, BF16, {"disable_autocast": "yes"}), micro_case())
    with pytest.raises(ConfigError, match="Unknown reference behaviour positions"):
        run(NativeRunner(micro_weights, dataclasses.replace(BF16, behaviours={"positions": True})), micro_case())
