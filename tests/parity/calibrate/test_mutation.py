import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import torch

from parity.calibrate import mutation
from parity.calibrate.mutation import MutationCheckpoint, mutate
from parity.calibrate.mutation_evidence import Evidence
from parity.calibrate.mutation_score import Alarm, MutationTrial, Score
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import Reach
from parity.defects.variant import DISTILLED, V2A_OFF
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, derive_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry
from parity.judge.strength import CatchCount, load_strength
from parity.runs.environment import fingerprint
from parity.runs.golden import find_case
from runners.case import Case
from runners.errors import ConfigError, OutOfTimeError, RegistryError, RunnerError
from runners.weights import WeightsFolder


def _killed_by(outputs: bool, drift: bool, isolated: bool) -> dict[str, bool]:
    return {"outputs": outputs, "outputs+drift": drift, "outputs+drift+isolated": isolated}


NOTHING = Evidence(
    bits_differ=True, killed_by=_killed_by(False, False, False), metrics=(), findings=(), departs_at=(), adds_at=()
)
SEEN = Evidence(
    bits_differ=True,
    killed_by=_killed_by(True, True, True),
    metrics=("frames.mad.max", "audio.snr_db.min"),
    findings=(),
    departs_at=("init/video",),
    adds_at=(),
)
INSIDE = Evidence(
    bits_differ=True,
    killed_by=_killed_by(False, False, True),
    metrics=("isolated.sigmas",),
    findings=(),
    departs_at=(),
    adds_at=("sigmas",),
)


def _trial(evidence: Evidence, *, located: bool = True, equivalent: bool = False) -> MutationTrial:
    return MutationTrial(
        defect=CATALOGUE[0], evidence=evidence, located=located and evidence.killed, equivalent=equivalent
    )


def _score(*trials: MutationTrial, alarms: tuple[Alarm, ...] = ()) -> Score:
    return Score(limits_of="c", date="2026-01-02", environment={"cpu": "x"}, trials=trials, harmless=alarms)


def test_a_defect_seen_inside_only_is_killed_but_not_by_outputs() -> None:
    document = _score(_trial(SEEN), _trial(INSIDE)).document()
    counts = {name: document[name] for name in ("defects", "killed", "located", "killed_by_outputs", "false_alarms")}
    assert counts == {"defects": 2, "killed": 2, "located": 2, "killed_by_outputs": 1, "false_alarms": 0}
    assert document["kills_by_metric"] == {"audio.snr_db.min": 1, "frames.mad.max": 1, "isolated.sigmas": 1}
    assert document["killed_by_levels"] == {"outputs": 1, "outputs+drift": 1, "outputs+drift+isolated": 2}
    assert document["kills_by_level"]["isolated errors"] == 1 and document["kills_by_level"]["drift of taps"] == 0
    assert document["good"]


def test_a_survivor_spoils_the_score_although_bits_would_have_told() -> None:
    score = _score(_trial(SEEN), _trial(NOTHING))
    assert not score.good and score.kills_by_level()["bits"] == 2 and score.kills_by_level()["under limits"] == 1


def test_a_tier_that_none_of_the_defects_reach_has_shown_nothing() -> None:
    nothing = replace(_score(), tier="fast", unreached=("a", "b"), share=(2, 3))
    assert not nothing.good
    document = nothing.document()
    assert (document["tier"], document["unreached"], document["share"]) == ("fast", ["a", "b"], [2, 3])
    assert not {"tier", "unreached", "share"} & _score(_trial(SEEN)).document().keys(), "older scores have none"


def quiet(_: str) -> None:
    """Hears nothing."""


def weights_of(weights_hash: str) -> WeightsFolder:
    """Weights that are nothing but their hash, for every pipeline."""
    found = SimpleNamespace(hash=weights_hash)
    found.of_pipeline = lambda _: found
    return cast(WeightsFolder, found)


def picture_case(make: Callable[..., Case]) -> Case:
    return make({"request.images": [{"path": "astronaut.png"}]})


class Station:
    """Stands for a case under test: runs nothing, and whatever there is to see is seen."""

    judge = SimpleNamespace(examine=lambda *_: SEEN)
    case = "c"
    wrong = 0.0  # what a defect puts into the numbers

    def free_run(self, *_: object, **__: object) -> SimpleNamespace:
        """The numbers of a run."""
        return SimpleNamespace(metrics={"x": Station.wrong})

    def parts_alone(self, **_: object) -> None:
        """No parts."""


@pytest.fixture
def stations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Case, str]]:
    """The stations that were opened, by case and tier."""
    opened: list[tuple[Case, str]] = []

    def open_one(_weights: Any, evidence: Any, _say: Any, tier: str) -> Station:
        opened.append((evidence.case, tier))
        return Station()

    monkeypatch.setattr(mutation, "open_case", open_one)
    monkeypatch.setattr(mutation, "grounds_of", lambda case, *_: SimpleNamespace(case=case, golden=None, own=True))
    return opened


def test_shares_try_every_defect_and_harmless_run_once(
    stations: list[tuple[Case, str]], micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation, "require_reached", lambda *_: None)
    monkeypatch.setattr(mutation, "rewritten", lambda *_: nullcontext())
    weights = weights_of("00")
    few = [replace(one, apply=lambda _: nullcontext()) for one in CATALOGUE[:7]]
    scores = [mutate(weights, picture_case(micro_case), Registry(), few, quiet, share=(k, 3)) for k in (1, 2, 3)]
    (whole,) = [mutate(weights, picture_case(micro_case), Registry(), few, quiet)]
    assert [len(one.trials) for one in scores] == [3, 2, 2]
    assert {trial.defect.id for one in scores for trial in one.trials} == {one.id for one in few}
    harmless = [(alarm.id, alarm.case) for one in scores for alarm in one.harmless]
    assert sorted(harmless) == sorted((alarm.id, alarm.case) for alarm in whole.harmless) and len(set(harmless)) > 20


def test_trials_that_are_kept_are_not_run_again_and_the_score_is_that_of_one_sitting(
    stations: list[tuple[Case, str]], micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mutation, "require_reached", lambda *_: None)
    monkeypatch.setattr(mutation, "rewritten", lambda *_: nullcontext())
    weights, case = weights_of("00"), picture_case(micro_case)
    applied: list[str] = []

    def counted(name: str, after: float = 0.0) -> Any:
        def apply(_: Reach) -> Any:
            applied.append(name)
            kept_so_far.begun_s -= after  # as if it had taken that long
            return nullcontext()

        return apply

    few = [replace(one, apply=counted(one.id, 90.0 * (place == 2))) for place, one in enumerate(CATALOGUE[:5])]
    kept_so_far = MutationCheckpoint()
    whole = mutate(weights, case, Registry(), few, quiet, checkpoint=kept_so_far)
    applied.clear()
    kept = tmp_path / "trials.json"
    kept_so_far = MutationCheckpoint(kept=kept, minutes=1.0, origin={"limits": "a"})
    with pytest.raises(OutOfTimeError, match=f"before {few[3].id!r}, with 3 members .* the same call goes on"):
        mutate(weights, case, Registry(), few, quiet, checkpoint=kept_so_far)
    assert list(dict.fromkeys(applied)) == [one.id for one in few[:3]]
    applied.clear()
    kept_so_far = MutationCheckpoint(kept=kept, origin={"limits": "a"})
    resumed = mutate(weights, case, Registry(), few, quiet, checkpoint=kept_so_far)
    assert list(dict.fromkeys(applied)) == [one.id for one in few[3:]]
    assert resumed.document() == whole.document() and len(resumed.harmless) > 20
    with pytest.raises(RegistryError, match="another limits; give another --samples file"):
        MutationCheckpoint(kept=kept, origin={"limits": "b"})


def test_a_defect_that_was_made_for_the_case_at_hand_is_tried_on_it_whichever_its_release(
    stations: list[tuple[Case, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation, "require_reached", lambda *_: None)
    monkeypatch.setattr(mutation, "rewritten", lambda *_: nullcontext())
    weights = weights_of("00")
    made_for = replace(next(one for one in CATALOGUE if one.variant is DISTILLED), apply=lambda _: nullcontext())
    case = find_case("release_1.2.0_tiny_distilled")
    score = mutate(weights, case, Registry(), [made_for], quiet)
    assert {opened.id for opened, _ in stations} == {case.id}  # not tiny_distilled, nor changes of it
    assert [trial.document()["case"] for trial in score.trials] == ["as it is"]
    assert {alarm.case for alarm in score.harmless} == {"as it is"} and len(score.harmless) > 20
    mutate(weights, find_case("tiny_ti2v"), Registry(), [made_for], quiet)
    assert {"tiny_distilled", "tiny_ti2v"} <= {opened.id for opened, _ in stations}


def test_a_case_of_another_release_is_left_out_by_name_where_its_golden_is_of_other_weights(
    stations: list[tuple[Case, str]], micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation, "require_reached", lambda *_: None)
    monkeypatch.setattr(mutation, "rewritten", lambda *_: nullcontext())

    def grounds(case: Case, *_: object) -> SimpleNamespace:
        made_by = SimpleNamespace(manifest=SimpleNamespace(weights_hash="01"))
        return SimpleNamespace(case=case, golden=None if case.reference == "1.0.0" else made_by, own=True)

    monkeypatch.setattr(mutation, "grounds_of", grounds)
    tiles = next(one for one in CATALOGUE if one.variant.name == "release_1.2.0_tiny_tiles")
    defects = [replace(one, apply=lambda _: nullcontext()) for one in (tiles, CATALOGUE[0])]
    for weights_hash, tried, left_out in (("00", 1, (tiles.id,)), ("01", 2, ())):
        stations.clear()
        weights = weights_of(weights_hash)
        score = mutate(weights, picture_case(micro_case), Registry(), defects, quiet)
        assert len(score.trials) == tried and score.without_reference == left_out
        assert (tiles.variant.name in {case.id for case, _ in stations}) == (not left_out)
        assert score.document().get("without_reference", []) == list(left_out)


def test_a_case_of_another_pipeline_without_limits_on_this_device_is_left_out_by_name(
    stations: list[tuple[Case, str]], micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation, "require_reached", lambda *_: None)
    monkeypatch.setattr(mutation, "rewritten", lambda *_: nullcontext())
    monkeypatch.setattr(mutation, "grounds_of", lambda case, *_: SimpleNamespace(case=case, golden=None, own=False))
    of_variant = {one.variant.name: replace(one, apply=lambda _: nullcontext()) for one in CATALOGUE}
    there, wide = of_variant[DISTILLED.name], of_variant["tiny_two_pictures"]
    score = mutate(weights_of("00"), picture_case(micro_case), Registry(), [there, wide, CATALOGUE[0]], quiet)
    assert score.without_limits == (there.id,) and len(score.trials) == 2
    assert score.document()["without_limits"] == [there.id]
    opened = {case.id for case, _ in stations}
    assert "tiny_two_pictures" in opened and "tiny_distilled" not in opened, "one stage knows nothing of an upsampler"


def test_a_faster_tier_runs_as_it_is_and_names_the_defects_that_it_does_not_reach(
    stations: list[tuple[Case, str]], micro_case: Callable[..., Case]
) -> None:
    weights = weights_of("00")

    @contextmanager
    def reached(reach: Reach) -> Iterator[None]:
        reach.hit()
        Station.wrong = 0.5
        yield
        Station.wrong = 0.0

    def without_effect(reach: Reach) -> Any:
        reach.hit()
        return nullcontext()

    def refusing(_: Reach) -> Any:
        raise ConfigError("not in this tier")

    def of_two_dtypes(_: Reach) -> Any:
        raise RuntimeError("mat1 and mat2 must have the same dtype")

    defects = [
        replace(CATALOGUE[0], id="refused", apply=refusing),
        replace(CATALOGUE[0], id="refused by torch", apply=of_two_dtypes),
        replace(CATALOGUE[0], id="without", apply=without_effect),
        replace(CATALOGUE[0], id="there", apply=reached),
        replace(CATALOGUE[0], id="not", apply=lambda _: nullcontext(), variant=V2A_OFF),
    ]
    score = mutate(weights, picture_case(micro_case), Registry(), defects, quiet, tier="fast")
    assert [trial.defect.id for trial in score.trials] == ["there"] and score.unreached == ("without", "not")
    assert score.refused == ("refused", "refused by torch")
    assert {tier for _, tier in stations} == {"fast"}
    assert [alarm.case for alarm in score.harmless if alarm.id == "fast"][:2] == ["as it is", "V2A off"]
    assert not any("+" in alarm.id for alarm in score.harmless), "a faster tier is a rewrite itself"
    with pytest.raises(RunnerError, match="'not' was never reached"):
        mutate(weights, picture_case(micro_case), Registry(), defects[2:], quiet)
    with pytest.raises(RuntimeError, match="the same dtype"):
        mutate(weights, picture_case(micro_case), Registry(), defects[1:], quiet)

    def out_of_memory(_: Reach) -> Any:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        ill = replace(CATALOGUE[0], apply=out_of_memory)
        mutate(weights, picture_case(micro_case), Registry(), [ill], quiet, tier="fast")
    with pytest.raises(ConfigError, match="not in this tier"):
        mutate(weights, picture_case(micro_case), Registry(), defects, quiet)


def test_equivalent_defects_are_listed_apart_and_at_most_three() -> None:
    few = _score(_trial(SEEN), *[_trial(NOTHING, equivalent=True)] * 3)
    assert few.good and few.document()["defects"] == 1 and len(few.document()["equivalents"]) == 3
    assert not _score(_trial(SEEN), *[_trial(NOTHING, equivalent=True)] * 4).good


def test_one_in_twenty_may_be_placed_wrongly_and_no_more() -> None:
    right, wrong = _trial(SEEN), _trial(SEEN, located=False)
    assert _score(*[right] * 19, wrong).good
    assert not _score(*[right] * 18, wrong).good


def test_a_harmless_run_that_is_stopped_is_a_false_alarm() -> None:
    passed, stopped = (Alarm(id="x", case="y", evidence=evidence) for evidence in (NOTHING, INSIDE))
    assert _score(_trial(SEEN), alarms=(passed,)).good
    score = _score(_trial(SEEN), alarms=(passed, stopped))
    assert not score.good and score.document()["false_alarms"] == 1 and score.document()["benign_runs"] == 2


def test_the_place_is_where_a_part_adds_an_error_before_where_a_free_run_departs() -> None:
    both = replace(INSIDE, departs_at=("init/video",))
    assert both.place == "sigmas"
    assert both.located(("sigmas",), ("init/*",)) and not both.located(("text/*",), ("init/*",))
    assert SEEN.located(("sigmas",), ("init/*",)), "without an isolated error the free run's place counts"
    assert not NOTHING.located(("*",), ("*",)) or NOTHING.place == ""


def test_limits_that_decide_nothing_here_catch_nothing(micro_case: Callable[..., Case]) -> None:
    here = {key: str(value) for key, value in fingerprint(torch.device("cpu")).items()}
    calibration = Calibration(
        date="2026-01-02", command="x", runs=("y",), environment=here, expires_with=("device", "torch", "threads")
    )
    name = "video_latent.relative_l2"
    limit = derive_limit(METRICS[name], floor={"a": (0.1, 0.1)}, defects={"d": (1.0,)}, calibration="c")
    weights = weights_of("00")
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"compared_on": {"micro": "boxes of 8 px, no taps"}}, "compared: boxes of 8 px, no taps -> everything"),
        ({"environment": {**here, "threads": "97"}}, "threads: 97 -> "),
    )
    for changes, said in wrong:
        other = msgspec.structs.replace(calibration, **changes)
        registry = Registry(calibrations={"c": other}, cases={TableKey("micro"): {name: limit}})
        with pytest.raises(RegistryError, match=f"(?s)decide nothing here.*{said}"):
            mutate(weights, micro_case(), registry, (), lambda _: None)


def test_a_limit_of_padded_text_catches_nothing(micro_case: Callable[..., Case]) -> None:
    here = {key: str(value) for key, value in fingerprint(torch.device("cpu")).items()}
    older = Calibration(date="2026-01-02", command="x", runs=("y",), environment=here, expires_with=("device",))
    limit = derive_limit(METRICS["drift.text"], floor={"a": (0.1, 0.1)}, defects={"d": (1.0,)}, calibration="c")
    registry = Registry(calibrations={"c": older}, cases={TableKey("micro"): {"drift.text": limit}})
    weights = weights_of("00")
    with pytest.raises(RegistryError, match=r"decide nothing here.*text with padding -> with real tokens only"):
        mutate(weights, micro_case(), registry, (), lambda _: None)


def test_a_saved_score_is_what_a_verdict_cites(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    path.write_text(json.dumps(_score(_trial(SEEN), _trial(INSIDE)).document()))
    strength = load_strength(path)
    assert strength is not None
    found = strength.caught_by(["outputs"])
    assert found == CatchCount(levels=("outputs",), count=1, defects=2, limits_of="c", date="2026-01-02")
