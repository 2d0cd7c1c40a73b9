import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from parity.taps.dataflow import Dataflow
from parity.taps.module_path import diffusers_path, module_path
from parity.taps.name import group_of, place_of
from runners.case import Case
from runners.errors import ConfigError, RunError
from runners.ltx23.branches import BRANCHES
from runners.native.runner import NativeRunner
from runners.official.runner import OfficialRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

MakeCase = Callable[..., Case]
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
REQUESTS: dict[str, dict[str, Any]] = {
    "all passes": {},
    "without V2A": V2A_OFF,
    "pictures": {"request.images": [{"path": "astronaut.png"}, {"path": "coffee.jpg", "frame_idx": 5}]},
    "no guidance": {"guidance.video": {}, "guidance.audio": {}},
    "steps skipped": {
        "guidance.video.skip_step": 1,
        "guidance.audio.skip_step": 2,
        "request.num_inference_steps": 3,
        **V2A_OFF,
    },
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_taps_a_case_must_leave_are_those_that_both_runners_leave(
    name: str, micro_weights: WeightsFolder, micro_case: MakeCase, run: Callable[..., Any]
) -> None:
    case = micro_case(REQUESTS[name])
    expected = Dataflow(case, 2).taps
    assert len(set(expected)) == len(expected)
    options = RunOptions(device=torch.device("cpu"))
    runners = (NativeRunner, OfficialRunner) if name == "steps skipped" else (NativeRunner,)
    for runner in runners:
        assert set(run(runner(micro_weights, options), case).taps) == set(expected)


def test_every_tap_stands_after_everything_it_is_computed_from(micro_case: MakeCase) -> None:
    overrides = REQUESTS["steps skipped"] | REQUESTS["pictures"]
    flow = Dataflow(micro_case(overrides), 3)
    for tap in flow.taps:
        for name in flow.inputs_of(tap):
            assert flow.rank(name) < flow.rank(tap), (name, tap)
    without_inputs = [tap for tap in flow.taps if not flow.inputs_of(tap)]
    assert without_inputs == ["text/pos/hidden", "text/neg/hidden", "image/0/latent", "image/1/latent", "init/audio"]


def test_a_whole_step_of_res_2s_begins_before_its_middle(micro_case: MakeCase) -> None:
    size = {"request.height": 64, "request.width": 128, "pipeline": "two_stage_hq"}
    case = micro_case(REQUESTS["pictures"] | size | {"guidance.video.skip_step": 1})
    flow = Dataflow(case, 2)
    assert case.total_steps == (2 * 2 + 1) + (2 * 3 + 1) and flow.steps == 5
    for tap in flow.taps:
        assert all(flow.rank(name) < flow.rank(tap) for name in flow.inputs_of(tap))
    images = ("image/0/latent", "image/1/latent")
    latent, guided = "denoise/{}/latent/video", "denoise/{}/guided/video"
    assert flow.inputs_of(latent.format("000")) == ("init/video", *images, guided.format("000"))
    assert flow.inputs_of(latent.format("003")) == (
        latent.format("001"),
        *images,
        guided.format("002"),
        guided.format("003"),
    )
    # Video skips step 1, which begins at the third evaluation, and no middle.
    assert flow.inputs_of(guided.format("002")) == (guided.format("001"),)
    assert len(flow.inputs_of(guided.format("003"))) == 4
    assert flow.final_latents["video"] == "stage2/denoise/006/latent/video"


def test_joins_of_a_block_are_followed(micro_case: MakeCase) -> None:
    flow = Dataflow(micro_case(), 2)
    head = "denoise/001/uncond/block"
    before = "denoise/000/latent"
    assert flow.inputs_of(f"{head}/00/video/self_attn") == (f"{before}/video",)
    assert flow.inputs_of(f"{head}/00/audio/text_attn") == (
        f"{before}/audio",
        f"{head}/00/audio/self_attn",
        "connector/neg/audio",
    )
    assert set(flow.inputs_of(f"{head}/01/video/av_attn")) == {
        f"{head}/00/video/out",
        f"{head}/00/audio/out",
        *(f"{head}/01/{stream}/{part}" for stream in ("video", "audio") for part in ("self_attn", "text_attn")),
    }  # and not audio's own av_attn: both directions read the streams as they are before either is added
    assert f"{head}/01/audio/av_attn" in flow.inputs_of(f"{head}/01/audio/ff")
    assert f"{head}/01/video/av_attn" not in flow.inputs_of(f"{head}/01/audio/ff")
    assert flow.inputs_of("denoise/001/uncond/x0/video") == (f"{before}/video", f"{head}/01/video/out")
    assert "connector/pos/video" in flow.inputs_of("denoise/000/perturbed/block/00/video/text_attn")
    assert flow.inputs_of("denoise/000/latent/audio") == ("init/audio", "denoise/000/guided/audio")
    assert flow.inputs_of("decode/waveform") == ("decode/mel",)
    assert flow.inputs_of("decode/mel") == ("denoise/001/latent/audio",)


def test_a_skipped_stream_keeps_its_last_prediction_and_is_still_seen_by_the_other(micro_case: MakeCase) -> None:
    flow = Dataflow(micro_case({"guidance.video.skip_step": 1}), 2)
    cond, uncond = "denoise/001/cond/block/00", "denoise/001/uncond/block/00"
    assert f"{cond}/video/self_attn" not in flow
    assert f"{uncond}/video/self_attn" in flow  # release 1.0.0 leaves both streams on in the negative pass
    assert flow.inputs_of(f"{cond}/video/out") == ("denoise/000/latent/video",)
    assert "denoise/000/latent/video" in flow.inputs_of(f"{cond}/audio/av_attn")
    assert flow.inputs_of("denoise/001/guided/video") == ("denoise/000/guided/video",)
    assert "denoise/001/cond/x0/audio" in flow.inputs_of("denoise/001/guided/audio")


def test_the_full_case_is_laid_out_at_once(micro_case: MakeCase) -> None:
    flow = Dataflow(micro_case({"request.num_inference_steps": 30}), 48)
    # per step: 48 blocks x 4 passes x 10 taps less the isolated pass's two a block, 8 x0, 4 of the step
    assert len(flow.taps) == 2 + 4 + 2 + 30 * (48 * (4 * 10 - 2) + 8 + 4) + 3
    assert sum(len(flow.inputs_of(tap)) for tap in flow.taps[:2000]) > 2000


@pytest.mark.parametrize("tap", ["denoise/000/cond/block/00/video/attn", "denoise/0/cond/x0/video", "", "text/hidden"])
def test_a_name_that_is_no_taps_is_refused(tap: str, micro_case: MakeCase) -> None:
    with pytest.raises(RunError, match="no tap"):
        place_of(tap)
    with pytest.raises(RunError, match="no tap"):
        Dataflow(micro_case(), 2).inputs_of(tap)


def test_a_model_without_blocks_is_refused(micro_case: MakeCase) -> None:
    with pytest.raises(ConfigError, match="at least one block"):
        Dataflow(micro_case(), 0)


def test_places_are_said_in_words() -> None:
    tap = "denoise/000/cond/block/00/video/av_attn"
    assert place_of(tap).words() == "step 0, conditional pass, block 0, video, audio-to-video attention"
    assert place_of("denoise/012/guided/audio").words() == "step 12, audio, guided prediction"
    assert place_of("connector/neg/audio").words() == "audio text connector, negative prompt"
    assert group_of("denoise/012/cond/block/101/audio/ff") == "denoise/*/cond/block/*/audio/ff"
    assert group_of("init/video") == "init/video"


def test_every_tap_names_code_that_exists_on_both_sides(micro_case: MakeCase) -> None:
    flow = Dataflow(micro_case(REQUESTS["pictures"]), 2)
    for path in {module_path(tap) for tap in flow.taps}:
        for dotted in (path.native, path.official):
            owner, _, name = dotted.rpartition(".")
            if name in BRANCHES.values():
                _resolve(owner)  # a submodule: the class exists, the runs above show the submodule does
            else:
                _resolve(dotted)
    for dotted in {diffusers_path(tap) for tap in flow.taps}:
        owner, _, name = dotted.rpartition(".")
        _resolve(owner if name in BRANCHES.values() else dotted)
    path = module_path("denoise/000/perturbed/block/01/audio/av_attn")
    assert path.native == "runners.ltx23.block.AudioVideoBlock.video_to_audio_attn"
    assert path.official == "ltx_core.model.transformer.transformer.BasicAVTransformerBlock.video_to_audio_attn"
    assert path.weights == "model.diffusion_model.transformer_blocks.1.video_to_audio_attn"


def test_weight_prefixes_are_in_the_checkpoint(micro_weights: WeightsFolder, micro_case: MakeCase) -> None:
    flow = Dataflow(micro_case(REQUESTS["pictures"]), 2)
    names = [*micro_weights.model.shapes, *micro_weights.gemma.shapes]
    for prefix in {module_path(tap).weights for tap in flow.taps}:
        assert any(name.startswith(prefix) for name in names), prefix


def _resolve(dotted: str) -> Any:
    module = dotted
    names: list[str] = []
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            names.insert(0, name)
    for name in names:
        found = getattr(found, name)
    return found
