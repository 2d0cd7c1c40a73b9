"""JUnit files say the same as the verdict, and hold any text."""

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec

from parity.judge.perf import PerfVerdict
from parity.judge.verdict import Verdict
from parity.report.junit import error_suite, perf_suite, verdict_suite, write_junit
from parity.report.words import in_words


def read(path: Path, *suites: ET.Element) -> ET.Element:
    write_junit(path, suites)
    return ET.parse(path).getroot()


def test_a_group_fails_with_its_metrics_and_a_finding_on_its_own(verdict: Verdict, tmp_path: Path) -> None:
    suite = read(tmp_path / "junit.xml", verdict_suite(in_words(verdict)))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert list(cases) == ["video_latent", "frames", "missing_channel: audio_waveform"]  # the worst group first
    assert cases["frames"].find("failure") is None  # its miss is waived
    failure = cases["video_latent"].find("failure")
    assert failure is not None and failure.get("message") == (
        "1 of 2 metrics beyond their limit, the worst video_latent.relative_l2: 0.123457, wanted <= 0.1"
    )
    assert "video_latent.relative_l2 is 0.123457, wanted <= 0.1" in (failure.text or "")
    outside, inside = failure.text or "", cases["video_latent"].findtext("system-out") or ""
    assert "video_latent.cosine is" in inside and "video_latent.cosine is" not in outside
    assert "relative_l2" not in inside  # nothing is said twice
    found = cases["missing_channel: audio_waveform"].find("failure")
    assert found is not None and "<b>|[link](x)\\u202e ]]> & ::error::%0A" in (found.text or "")
    assert "\\x1b" in (found.text or "")  # no control character reached the file


def test_a_pass_has_no_failures(passing: Verdict, tmp_path: Path) -> None:
    suite = read(tmp_path / "junit.xml", verdict_suite(in_words(passing)))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "0")


def test_what_could_not_be_judged_is_an_error(passing: Verdict, tmp_path: Path) -> None:
    undecided = in_words(msgspec.structs.replace(passing, outcome="undecided"))
    root = read(tmp_path / "junit.xml", verdict_suite(undecided), error_suite("astronaut", "no golden\x00\ud800"))
    assert [suite.get("errors") for suite in root] == ["1", "1"]
    assert root.find("testsuite/testcase[@name='gate']/error") is not None


def test_speed_has_a_case_for_each_quantity(slow: PerfVerdict, tmp_path: Path) -> None:
    suite = read(tmp_path / "junit.xml", perf_suite(slow))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("5", "1")
    other = msgspec.structs.replace(slow, outcome="not_comparable", rows=(), reason="device: a -> b")
    assert read(tmp_path / "junit.xml", perf_suite(other))[0].get("errors") == "1"
