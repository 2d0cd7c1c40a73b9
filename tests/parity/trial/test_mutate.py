from parity.trial.catalogue import CATALOGUE
from parity.trial.evidence import Evidence
from parity.trial.mutate import Alarm, Score, Trial

NOTHING = Evidence(bits_differ=True, metrics=(), findings=(), departs_at=(), adds_at=())
SEEN = Evidence(
    bits_differ=True,
    metrics=("frames.mad.max", "audio.snr_db.min"),
    findings=(),
    departs_at=("init/video",),
    adds_at=(),
)
INSIDE = Evidence(bits_differ=True, metrics=(), findings=(), departs_at=(), adds_at=("sigmas",))


def _trial(evidence: Evidence, *, located: bool = True, equivalent: bool = False) -> Trial:
    return Trial(defect=CATALOGUE[0], evidence=evidence, located=located and evidence.killed, equivalent=equivalent)


def _score(*trials: Trial, alarms: tuple[Alarm, ...] = ()) -> Score:
    return Score(limits_of="c", trials=trials, harmless=alarms)


def test_a_defect_seen_inside_only_is_killed_but_not_by_outputs() -> None:
    document = _score(_trial(SEEN), _trial(INSIDE)).document()
    counts = {name: document[name] for name in ("defects", "killed", "located", "killed_by_outputs", "false_alarms")}
    assert counts == {"defects": 2, "killed": 2, "located": 2, "killed_by_outputs": 1, "false_alarms": 0}
    assert document["kills_by_metric"] == {"audio.snr_db.min": 1, "frames.mad.max": 1}
    assert document["good"]


def test_a_survivor_spoils_the_score_although_bits_would_have_told() -> None:
    score = _score(_trial(SEEN), _trial(NOTHING))
    assert not score.good and score.kills_by_level()["bits"] == 2 and score.kills_by_level()["under limits"] == 1


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
    both = Evidence(bits_differ=True, metrics=(), findings=(), departs_at=("init/video",), adds_at=("sigmas",))
    assert both.place == "sigmas"
    assert both.located(("sigmas",), ("init/*",)) and not both.located(("text/*",), ("init/*",))
    assert SEEN.located(("sigmas",), ("init/*",)), "without an isolated error the free run's place counts"
    assert not NOTHING.located(("*",), ("*",)) or NOTHING.place == ""
