"""Native runs with known defects of ports are named, with how sure it is; others are not guessed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import Any, Final
from unittest.mock import patch

import pytest
import torch

from parity.defects import latents, pictures, ports
from parity.defects.decoding import stereo_exchanged
from parity.defects.defect import Defect, present
from parity.identify.behaviours import SITES
from parity.identify.identification import Identification, identify
from parity.identify.port_defects import PORT_DEFECTS, defects_at, may_go_together
from parity.identify.replay import Replay
from parity.identify.run_tensors import RunTensors
from parity.report.identification import identification_document, identification_lines
from parity.runs.folder import Run
from runners.case import Case
from runners.ltx23.audio_decoder import decode_audio
from runners.ltx23.stages import audio_decoding
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PICTURE: Final[dict[str, Any]] = {
    "request.images": [{"path": "astronaut.png"}],
    "request.num_inference_steps": 1,
}
Left = Callable[..., Run]
MakeCase = Callable[..., Case]


@contextmanager
def all_present(*defects: Defect) -> Iterator[None]:
    with ExitStack() as stack:
        for defect in defects:
            stack.enter_context(present(defect))
        yield


def named(found: Identification) -> dict[str, str]:
    """Verdict by name of the defect."""
    return {one.switch.name: one.verdict for one in found.defects}


def bearing(*defects: Defect) -> set[str]:
    """The names under which defects are known, one for each site at which they act."""
    return {name for name, one in PORT_DEFECTS.items() if one.defect in defects}


def rows() -> list[list[Defect]]:
    """The known defects, each once, in as few runs as there are at one site; a run has one of each site or none."""
    by_site: dict[str, list[Defect]] = {}
    seen: list[Defect] = []
    for one in PORT_DEFECTS.values():
        if one.defect is not None and one.defect not in seen and one.defect is not ports.v2a_on_in_every_pass:
            seen.append(one.defect)
            by_site.setdefault(one.sites[0], []).append(one.defect)
    return [
        [defects[row] for defects in by_site.values() if row < len(defects)]
        for row in range(max(map(len, by_site.values())))
    ]


@pytest.mark.sweep
@pytest.mark.parametrize("defects", rows(), ids=lambda row: "-".join(defect.id for defect in row))
def test_every_defect_is_named_with_certainty_though_others_stand_at_other_places(
    defects: list[Defect], left: Left, micro_weights: WeightsFolder, micro_case: MakeCase
) -> None:
    case = micro_case(PICTURE)
    found = identify(left(case, keep="full", wrong=all_present(*defects)), case, micro_weights, CPU)
    assert named(found) == dict.fromkeys(bearing(*defects), "certain")
    assert found.confidence == "certain" and found.unexplained == () and found.release == "1.0.0"


def test_v2a_that_should_be_off_is_named(left: Left, micro_weights: WeightsFolder, micro_case: MakeCase) -> None:
    case = micro_case({**PICTURE, "switches.skip_v2a_cross_attn_for_video_gt": True})
    found = identify(left(case, keep="full", wrong=present(ports.v2a_on_in_every_pass)), case, micro_weights, CPU)
    assert named(found) == {"first_block/v2a_on_in_every_pass": "certain"} and found.confidence == "certain"


def test_a_release_and_a_defect_at_one_tap_are_told_in_one_sentence(
    left: Left, micro_weights: WeightsFolder, micro_case: MakeCase
) -> None:
    case = micro_case({"request.num_inference_steps": 1})
    run = left(case, "vocoder_fp32", keep="full", wrong=present(ports.resampling_filter_bf16))
    found = identify(run, case, micro_weights, CPU)
    assert found.release == "1.1.2" and found.decisions["vocoder_fp32"].verdict == "certain"
    taps = found.compared - 2
    assert identification_lines(found)[0] == (
        f"as 1.1.2, but its resampling filter was computed in bf16 (certain: with it all {taps} taps are equal)"
    )
    [document] = identification_document(found)["defects"]
    assert document["name"] == "sound/resampling_filter_bf16" and document["tap"] == "decode/waveform"
    assert document["error"] == 0 < document["error_without"] and "vocoder_fp32" in identification_document(found)["on"]


@pytest.mark.parametrize(
    "pair",
    [
        (pictures.picture_stretched, pictures.picture_not_compressed),
        (ports.resampling_filter_bf16, ports.antialias_filters_bf16),
        (latents.noise_audio_first, ports.noise_by_channel_of_grid),
    ],
    ids=lambda pair: pair[0].id,
)
def test_two_at_one_place_are_both_named(
    pair: tuple[Defect, Defect], left: Left, micro_weights: WeightsFolder, micro_case: MakeCase
) -> None:
    case = micro_case(PICTURE)
    found = identify(left(case, keep="full", wrong=all_present(*pair)), case, micro_weights, CPU)
    assert named(found) == dict.fromkeys(bearing(*pair), "certain") and found.confidence == "certain"
    assert f"certain: with them all {found.compared - 2} taps are equal" in identification_lines(found)[0]


@pytest.mark.parametrize(
    ("defect", "tap"), [(stereo_exchanged, "decode/waveform"), (latents.noise_of_next_seed, "init/video")]
)
def test_what_is_none_of_these_stays_unexplained(
    defect: Defect, tap: str, left: Left, micro_weights: WeightsFolder, micro_case: MakeCase
) -> None:
    case = micro_case({"request.num_inference_steps": 1})
    found = identify(left(case, keep="full", wrong=present(defect)), case, micro_weights, CPU)
    assert named(found) == {} and found.unexplained[0].tap == tap
    assert identification_lines(found)[0].startswith(("as 1.0.0", "as far as can be told, as 1.0.0"))
    assert identification_document(found)["defects"] == []


def test_beside_noise_a_defect_is_likely(left: Left, micro_weights: WeightsFolder, micro_case: MakeCase) -> None:
    case = micro_case({"request.num_inference_steps": 1})

    def noisy(*args: Any) -> tuple[torch.Tensor, int]:
        waveform, rate_hz = decode_audio(*args)
        noise = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(1))
        return waveform + 1e-4 * waveform.norm() / noise.norm() * noise, rate_hz

    with patch.object(audio_decoding, "decode_audio", noisy):
        run = left(case, "vocoder_fp32", keep="full", wrong=present(ports.resampling_filter_bf16))
    found = identify(run, case, micro_weights, CPU)
    assert named(found) == {"sound/resampling_filter_bf16": "likely"} and found.confidence == "likely"
    assert found.defects[0].error == pytest.approx(1e-4, rel=0.3), "of a sketch of 64 numbers"
    without = found.defects[0].flipped_error
    said = f"(likely: error {found.defects[0].error:.1e} with it, {without:.1e} without)"
    assert without > 1e-3 and identification_lines(found)[0].endswith(said)


@pytest.mark.parametrize(
    ("first", "names"),
    [
        (latents.noise_of_next_seed, set()),
        (ports.noise_by_channel_of_grid, {"init/noise_by_channel_of_grid", "first_block/query_key_norm_eps_1e5"}),
    ],
    ids=["unexplained", "explained"],
)
def test_without_whole_taps_none_is_guessed_behind_what_stays_unexplained(
    first: Defect, names: set[str], left: Left, micro_weights: WeightsFolder, micro_case: MakeCase
) -> None:
    case = micro_case(PICTURE)
    found = identify(left(case, wrong=all_present(first, ports.query_key_norm_eps_1e5)), case, micro_weights, CPU)
    assert set(named(found)) == names
    assert found.confidence == "certain" if names else found.unexplained[0].tap == "init/video"


@pytest.mark.sweep
def test_every_pair_of_one_site_can_be_computed(micro_weights: WeightsFolder, micro_case: MakeCase) -> None:
    options = RunOptions(device=CPU)
    case = micro_case(PICTURE)
    replay = Replay(micro_weights, case, options, RunTensors(video_latent=None, audio_latent=None), 64)
    for site in SITES:
        acting = sorted(defects_at(site))
        for count in (1, 2) if site not in ("frames", "sound") else (1,):
            for some in combinations(acting, count):
                if count == 1 or may_go_together(*some):
                    assert replay.taps(site, frozenset(some))
