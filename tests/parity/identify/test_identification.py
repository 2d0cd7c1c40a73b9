"""A native run at some switches is named exactly; what else it has wrong stays unexplained, at its place."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
import torch

from parity.defects.batched import ALL_PASSES, BatchedDenoisingStage
from parity.identify.identification import Identification, identify
from parity.identify.run_tensors import FED_PARTS
from parity.report.identification import identification_document, identification_lines
from parity.runs.folder import Run
from parity.taps.name import place_of
from parity.trace.atomic import plain
from parity.trace.file import TRACE_FILE, decode, write_trace
from runners.case import Case
from runners.errors import RunError
from runners.files import sha256_of
from runners.ltx23 import pipeline
from runners.ltx23.euler import euler_step
from runners.ltx23.gemma import GemmaEncoder
from runners.ltx23.stages import denoising
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
KEYFRAME: dict[str, Any] = {
    "request.images": [{"path": "coffee.jpg", "frame_idx": 3, "strength": 0.6}],
    "request.negative_prompt": None,
    "guidance.video.skip_step": 1,
}


Left = Callable[..., Run]


def on(found: Identification) -> set[str]:
    return {name for name, one in found.decisions.items() if one.on and one.verdict in ("certain", "likely")}


def test_a_mixture_of_releases_is_named_with_certainty(
    left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case(KEYFRAME)
    switches = {
        "keyframe_spans_one_frame",
        "negative_disables_skipped_modality",
        "positions_fp32",
        "guidance_fp32",
        "more_negative_phrases",
    }
    found = identify(left(case, *switches), case, micro_weights, CPU)
    assert on(found) == switches and found.confidence == "certain" and found.unexplained == ()
    assert found.release == "1.2.0"
    assert {one.switch.name for one in found.switches} == {"cross_timestep_per_token", "vocoder_fp32"}
    assert identification_lines(found)[0] == (
        "as 1.2.0, but without cross-modal scale and shift by the stream's own timesteps (since 1.2.0) "
        "and without vocoder in fp32 (since 1.1.2)"
    )
    document = json.loads(json.dumps(plain(identification_document(found))))
    assert set(document["on"]) == switches and document["switches"]["guidance_fp32"]["on"] is True
    assert document["switches"]["guidance_fp32"]["tap"] == "denoise/000/guided/video"
    assert document["switches"]["decode_auto_tiled"] | {"reason": ""} == {
        "on": None,
        "verdict": "idle",
        "reason": "",
        "site": None,
        "tap": None,
        "error": "nan",
        "error_if_flipped": "nan",
    }


def test_the_release_of_a_run_by_res_2s_is_told_by_the_dtype_of_its_noise_levels(
    left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    sizes = {"request.height": 64, "request.width": 128, "request.num_inference_steps": 1}
    unperturbed = {"guidance.video.stg_scale": 0.0, "guidance.audio.stg_scale": 0.0}
    case = micro_case({"pipeline": "two_stage_hq", "stages.second.sigmas": [0.8, 0.3, 0], **sizes, **unperturbed})
    run = left(case, "guided_passes_repeated", "unguided_level_per_sample", dtype="fp32")
    found = identify(run, case, micro_weights, CPU)
    assert on(found) == {"guided_passes_repeated", "unguided_level_per_sample"}
    assert found.confidence == "certain" and found.unexplained == ()
    taps = [found.decisions[name].tap for name in ("guided_passes_repeated", "unguided_level_per_sample")]
    assert taps == [f"{stage}denoise/001/cond/block/00/video/self_attn" for stage in ("", "stage2/")]


def test_outputs_alone_tell_too_and_it_says_so(
    left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case()
    run = left(case, "positions_fp32", "guidance_fp32", "vocoder_fp32", keep=None)
    found = identify(run, case, micro_weights, CPU)
    assert on(found) == {"positions_fp32", "guidance_fp32", "vocoder_fp32"}
    assert found.confidence == "certain" and not found.traced and found.compared == 4
    assert any("no trace" in line for line in identification_lines(found))
    assert "outputs (it has no trace) are equal" in identification_lines(found)[1]


def test_it_computes_with_the_kernels_that_runs_of_the_release_have(
    left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    @contextmanager
    def ordered(device: torch.device, release: str) -> Iterator[None]:
        """As on a GPU, which is not to be had."""
        with torch.backends.cudnn.flags(deterministic=release == "1.1.2"):
            yield

    case = micro_case({"reference": "1.1.2", "request.num_inference_steps": 1})
    run, seen = left(case, keep=None), []
    with patch("parity.identify.identification.repeatable_kernels", ordered):
        found = identify(run, case, micro_weights, CPU, lambda _: seen.append(torch.backends.cudnn.deterministic))
    assert seen and all(seen) and any("cudnn.deterministic" in one.new for one in found.environment)


def short_steps() -> AbstractContextManager[Any]:
    return patch.object(denoising, "euler_step", lambda x, x0, sigma, change: euler_step(x, x0, sigma, change * 0.9))


@pytest.mark.parametrize("keep", ["sketch", "full"])
def test_a_defect_stays_unexplained_at_its_place(
    keep: str, left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case()
    found = identify(left(case, "positions_fp32", keep=keep, wrong=short_steps()), case, micro_weights, CPU)
    assert on(found) == {"positions_fp32"} and found.release == "1.0.0" and found.confidence == "likely"
    where = [one.tap for one in found.unexplained]
    steps = ("000", "001") if keep == "full" else ("000",)  # the second step starts from the run's own latents, or not
    assert where == [f"denoise/{step}/latent/{stream}" for step in steps for stream in ("video", "audio")]
    assert identification_lines(found)[0] == "as 1.0.0, but video positions in fp32 (since 1.2.0)"
    assert (
        f"unexplained: {found.unexplained[0].error:.1e} at denoise/000/latent/video" in identification_lines(found)[2]
    )


def test_the_runs_own_text_stands_in_for_ours_without_its_padding(
    left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"request.num_inference_steps": 1})
    original = GemmaEncoder.together

    def louder(self: GemmaEncoder, prompts: list[str]) -> Any:
        return [
            (tuple(torch.where(mask[..., None] == 0, torch.nan, state * 1.25) for state in states), mask)
            for states, mask in original(self, prompts)
        ]

    wrong = patch.object(GemmaEncoder, "together", louder)
    found = identify(left(case, "guidance_fp32", keep="full", wrong=wrong), case, micro_weights, CPU)
    assert [one.tap for one in found.unexplained] == ["text/pos/hidden", "text/neg/hidden"]
    assert on(found) == {"guidance_fp32"} and found.equal == found.compared - 2, "all that is made of it is explained"
    assert not found.padded_text


def test_text_that_an_older_run_holds_with_padding_is_not_read_and_that_is_said(
    left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"request.num_inference_steps": 1})
    run = left(case, "guidance_fp32", keep="full")
    taps = list(run.trace)
    table = decode((run.folder / TRACE_FILE).read_bytes(), origin="x")
    write_trace(run.folder, replace(table, padded_text=True))
    files = run.manifest.files | {TRACE_FILE: sha256_of(run.folder / TRACE_FILE)}
    again = Run(
        folder=run.folder, manifest=msgspec.structs.replace(run.manifest, files=files)
    )  # it reads its trace once
    found = identify(again, case, micro_weights, CPU)
    assert found.padded_text and identification_document(found)["padded_text"] is True
    fed = [tap for tap in taps if place_of(tap).part in FED_PARTS]
    assert (found.compared, found.whole) == (len(taps) - 2 + 2, len(fed) - 2)  # two prompts fewer, and two latents more
    assert found.confidence == "certain" and on(found) == {"guidance_fp32"}
    assert any("still held padding" in line for line in identification_lines(found))


def test_passes_in_one_batch_are_recognised(
    left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"request.num_inference_steps": 1})
    batched = patch.object(pipeline, "DenoisingStage", partial(BatchedDenoisingStage, together=ALL_PASSES))
    found = identify(left(case, wrong=batched, dtype="fp32"), case, micro_weights, CPU)
    assert on(found) == {"guidance_passes_batched"} and found.confidence == "certain"
    assert identification_lines(found)[0].endswith("but all guidance passes as one batch")


def without_outputs(run: Run, *more: str) -> Run:
    files = {name: value for name, value in run.manifest.files.items() if name not in ("outputs.safetensors", *more)}
    return Run(folder=run.folder, manifest=msgspec.structs.replace(run.manifest, files=files))


def test_a_reduced_run_is_told_by_its_trace(
    left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"request.num_inference_steps": 1})
    run = left(case, "vocoder_fp32", "guidance_fp32")
    found = identify(without_outputs(run), case, micro_weights, CPU)
    assert on(found) == {"vocoder_fp32", "guidance_fp32"} and found.confidence == "certain"
    with pytest.raises(RunError, match="no trace"):
        identify(without_outputs(run, "trace.safetensors"), case, micro_weights, CPU)


def test_other_weights_are_refused(left: Left, micro_weights: WeightsFolder, micro_case: Callable[..., Case]) -> None:
    case = micro_case({"request.num_inference_steps": 1})
    run = left(case, keep=None)
    other = Run(folder=run.folder, manifest=msgspec.structs.replace(run.manifest, weights_hash="ab" * 32))
    with pytest.raises(RunError, match="with weights abababababab"):
        identify(other, case, micro_weights, CPU)
