"""The search on a model made of numbers: each switch moves some taps, in its own site and in all that follow."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from parity.identify.behaviours import BEHAVIOURS, SITES, Setting, setting_of
from parity.identify.port_defects import PORT_DEFECTS, defects_at
from parity.identify.replay import Replay, Taps
from parity.identify.run_tensors import AUDIO_LATENT, VIDEO_LATENT
from parity.identify.search import EXHAUSTIVE, FACTOR, MOST_TRIED, SWITCHES, BehaviourDecision, RunUnderTest, Search
from parity.trace.sketch import TapSketch, sketch
from runners.case import Case

MakeCase = Callable[..., Case]
EVERYTHING: dict[str, Any] = {
    "request.images": [{"path": "coffee.jpg", "strength": 0.5}, {"path": "coffee.jpg", "frame_idx": 3}],
    "request.num_frames": 89,
    "guidance.video.skip_step": 1,
}
TAPS = {
    "text": "text/neg/hidden",
    "connector": "connector/neg/video",
    "image": "image/0/latent",
    "init": "init/video",
    "first_block": "denoise/000/cond/block/00/video/self_attn",
    "passes": "denoise/000/uncond/block/01/video/out",
    "guided": "denoise/000/guided/video",
    "skipping": "denoise/001/uncond/x0/video",
    "frames": "decode/frames",
    "sound": "decode/waveform",
}
# The request has its own negative prompt, one stage and no LoRA; these stand as the release has them.
IDLE: Setting = frozenset(
    {
        *("more_negative_phrases", "sound_of_first_stage", "lora_accumulated", "guided_passes_repeated"),
        "unguided_level_per_sample",
    }
)
MOVES = {name: switch.sites[0] for name, switch in SWITCHES.items()}


class Model:
    """Stands for `Replay`: every switch adds numbers of its own to the taps from its first site on."""

    def __init__(self, sizes: dict[str, float] | None = None, noise: float = 0.0) -> None:
        self.sizes = dict.fromkeys(SWITCHES, 0.1) | (sizes or {})
        self.noise = noise
        self.asked: list[tuple[str, Setting]] = []

    def taps(self, site: str, setting: Setting) -> Taps:
        self.asked.append((site, setting))
        sites = [site] if site != "denoising" else ["first_block", "passes", "guided", "skipping", "denoising"]
        return {tap: self._sketch(at, tap, setting) for at in sites for tap in self._names(at)}

    def at(self, site: str, tap: str) -> bool:
        return tap in self._names(site) or (site == "denoising" and (tap.startswith(("denoise/", "outputs/"))))

    def all(self, setting: Setting) -> Taps:
        return {name: value for site in SITES for name, value in self.taps(site, setting).items()}

    def _names(self, site: str) -> list[str]:
        if site == "second":  # the case has one stage
            return []
        return [VIDEO_LATENT, AUDIO_LATENT] if site == "denoising" else [TAPS[site]]

    def _sketch(self, site: str, tap: str, setting: Setting) -> TapSketch:
        values = self._numbers(tap)
        decoded = site in ("frames", "sound")  # from the run's own latents, whatever led to them
        for name in filter(setting.__contains__, SWITCHES):  # one order, so sums have equal bits
            first = MOVES[name]
            reaches = first == site if decoded else SITES.index(first) <= SITES.index(site)
            if reaches:
                values = values + self.sizes[name] * self._numbers(f"{tap} {name}")
        return sketch(values + self.noise * self._numbers(f"{tap} noise"))

    @staticmethod
    def _numbers(key: str) -> torch.Tensor:
        return torch.randn(512, generator=torch.Generator().manual_seed(sum(map(ord, key)) * 7919 + len(key)))


def searched(
    case: Case, truth: Setting, model: Model | None = None, noise: float = 0.0, without: tuple[str, ...] = ()
) -> tuple[Setting, dict[str, BehaviourDecision]]:
    ours = model or Model()
    theirs = Model(ours.sizes, noise).all(truth)
    seen = {tap: value for tap, value in theirs.items() if not tap.startswith(without)}
    return Search(cast(Replay, ours), RunUnderTest(taps=seen, pattern="*", traced=True), case, "bf16").search()


@pytest.mark.parametrize("release", ["1.0.0", "1.1.2", "1.2.0"])
@pytest.mark.parametrize("truth", [(), ("positions_fp32",), ("guidance_fp32", "vocoder_fp32"), tuple(BEHAVIOURS)])
def test_whatever_is_on_is_found_from_any_start(release: str, truth: tuple[str, ...], micro_case: MakeCase) -> None:
    case = micro_case({**EVERYTHING, "reference": release})
    wanted = frozenset(truth) - IDLE | (setting_of(release) & IDLE)
    setting, decisions = searched(case, wanted)
    assert setting == wanted
    assert {name for name, one in decisions.items() if one.verdict != "certain"} == IDLE
    assert decisions["positions_fp32"].error == 0 < decisions["positions_fp32"].flipped_error


def test_two_switches_of_one_tap_are_told_together_though_neither_helps_alone(micro_case: MakeCase) -> None:
    both = frozenset({"positions_fp32", "keyframe_spans_one_frame", "cross_timestep_per_token"})
    setting, _ = searched(micro_case(EVERYTHING), both)
    assert setting == both


def test_under_noise_a_switch_is_likely_if_its_error_falls_by_the_factor_and_undecided_below(
    micro_case: MakeCase,
) -> None:
    truth = frozenset({"positions_fp32", "guidance_fp32"})
    sizes = {"guidance_fp32": 0.004}
    setting, decisions = searched(micro_case(EVERYTHING), truth, Model(sizes), noise=0.01)
    assert setting == truth - {"guidance_fp32"}, "what noise drowns stands as the case's release has it"
    found = decisions["positions_fp32"]
    assert found.verdict == "likely" and found.on and found.error * FACTOR < found.flipped_error
    assert found.error == pytest.approx(0.01, rel=0.3) and found.flipped_error == pytest.approx(0.1, rel=0.3)
    assert decisions["guidance_fp32"].verdict == "undecided" and "larger" in decisions["guidance_fp32"].reason


def test_a_switch_that_moves_no_bit_is_idle_and_never_guessed(micro_case: MakeCase) -> None:
    setting, decisions = searched(
        micro_case(EVERYTHING), frozenset({"decoder_chunked"}), Model({"decoder_chunked": 0.0})
    )
    assert decisions["decoder_chunked"].verdict == "idle" and "no bit" in decisions["decoder_chunked"].reason
    assert "decoder_chunked" not in setting


def test_what_was_not_recorded_is_undecided_unless_the_final_latents_tell(micro_case: MakeCase) -> None:
    truth = frozenset({"positions_fp32", "vocoder_fp32", "noise_lerp_fp32", "connectors_share_mask", "guidance_fp32"})
    case = micro_case(EVERYTHING)
    setting, decisions = searched(case, truth, without=("denoise/", "init/", "connector/", "text/"))
    assert setting == truth and decisions["positions_fp32"].site == decisions["noise_lerp_fp32"].site == "denoising"
    _, decisions = searched(case, truth, without=("denoise/", "init/", "connector/", "text/", "outputs/"))
    assert decisions["positions_fp32"].verdict == "undecided" and "not recorded" in decisions["positions_fp32"].reason


def test_a_tap_that_only_the_run_has_counts_as_a_departure(micro_case: MakeCase) -> None:
    model = Model()
    theirs = dict(model.all(frozenset()))
    del theirs["denoise/000/guided/video"]
    case = micro_case(EVERYTHING)
    search = Search(cast(Replay, model), RunUnderTest(taps=theirs, pattern="*", traced=True), case, "bf16")
    assert search.errors("guided", frozenset()) == {}  # a tap that the engine never records is no departure
    theirs["denoise/001/guided/video"] = theirs["init/video"]
    search = Search(cast(Replay, model), RunUnderTest(taps=theirs, pattern="*", traced=True), case, "bf16")
    assert search.errors("guided", frozenset()) == {"denoise/000/guided/video": 2.0}


def test_most_combinations_are_never_tried(micro_case: MakeCase) -> None:
    model = Model()
    searched(micro_case(EVERYTHING), setting_of("1.2.0") - IDLE, model)
    assert len(set(model.asked)) < 80 < 2 ** len(BEHAVIOURS)
    assert not any(setting & PORT_DEFECTS.keys() for _, setting in model.asked), "switches explain it all"


FILTER, ALIASED = "sound/resampling_filter_bf16", "sound/vocoder_aliased"


def test_a_defect_is_found_beside_a_switch_of_its_tap_and_two_defects_are(micro_case: MakeCase) -> None:
    for truth in ({FILTER}, {FILTER, "vocoder_fp32"}, {FILTER, ALIASED, "vocoder_fp32"}):
        setting, decisions = searched(micro_case(EVERYTHING), frozenset(truth))
        assert setting == truth
        assert {name for name in truth if decisions[name].verdict != "certain"} == set()
        assert decisions.keys() - BEHAVIOURS.keys() == truth - {"vocoder_fp32"}


def test_under_noise_a_defect_is_likely_or_left_out(micro_case: MakeCase) -> None:
    truth = frozenset({FILTER, "vocoder_fp32"})
    setting, decisions = searched(micro_case(EVERYTHING), truth, noise=0.01)
    assert setting == truth and decisions[FILTER].verdict == "likely"
    model = Model({FILTER: 0.004})
    setting, decisions = searched(micro_case(EVERYTHING), truth, model, noise=0.01)
    assert setting == truth - {FILTER} and decisions.keys() == BEHAVIOURS.keys()


def test_three_defects_at_one_place_are_not_guessed_by_two(micro_case: MakeCase) -> None:
    three = frozenset({FILTER, ALIASED, "sound/antialias_filters_bf16"})
    setting, decisions = searched(micro_case(EVERYTHING), three)
    assert decisions.keys() == BEHAVIOURS.keys() and not setting & PORT_DEFECTS.keys()


def test_where_nothing_explains_a_site_the_trials_are_bounded(micro_case: MakeCase) -> None:
    model = Model()
    truth = frozenset(sorted(defects_at("first_block"))[:3])
    _, decisions = searched(micro_case(EVERYTHING), truth, model)
    assert decisions.keys() == BEHAVIOURS.keys()
    asked = {setting for site, setting in model.asked if site == "first_block" and setting & PORT_DEFECTS.keys()}
    assert len(asked) <= len(PORT_DEFECTS) * 2**EXHAUSTIVE + MOST_TRIED


def test_defects_that_do_the_same_are_named_together(micro_case: MakeCase) -> None:
    class Alike(Model):
        def taps(self, site: str, setting: Setting) -> Taps:
            return super().taps(site, setting if ALIASED not in setting else setting - {ALIASED} | {FILTER})

    _, decisions = searched(micro_case(EVERYTHING), frozenset({FILTER}), Alike())
    assert decisions[FILTER].verdict == "certain" and [one.name for one in decisions[FILTER].as_near] == [ALIASED]
