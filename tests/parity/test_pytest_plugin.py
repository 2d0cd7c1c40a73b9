"""The plugin in a suite of its own, as an engine's authors have it: what passes, fails, and cannot be judged."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec
import pytest

import parity.diff.outputs
import parity.diff.runs
import parity.isolate.saved
import parity.judge.gate
import parity.judge.registry
import parity.report.explanation
import parity.report.page_content
import parity.report.tables
from parity.diff.metric import METRICS
from parity.diff.runs import subset_of_case, subset_phrase
from parity.judge.limit import Calibration, derive_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry, load_registry, save_registry
from parity.runs.folder import read_run
from parity.runs.golden import bless
from parity.runs.store import ENVIRONMENT_VARIABLE

# A suite run inside this process forgets what it imports, and numpy cannot be imported twice: so all of it is, above.
assert parity.judge.gate and parity.diff.outputs and parity.diff.runs
assert parity.judge.registry and parity.report.tables and parity.report.page_content
assert parity.isolate.saved and parity.report.explanation

pytest_plugins = ["pytester"]
LeaveRun = Callable[..., Path]
Suite = Callable[..., pytest.RunResult]
INSTALLED = any(point.value == "parity.pytest_plugin" for point in entry_points(group="pytest11"))
LOADED = () if INSTALLED else ("-p", "parity.pytest_plugin")  # a checkout that nobody installed has no entry points


@pytest.fixture
def suite(pytester: pytest.Pytester, tmp_path: Path, micro_case_text: str, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Run one test of an engine's suite, in a checkout that has the micro case."""
    folder = tmp_path / "root" / "golden" / "micro"
    folder.mkdir(parents=True)
    (folder / "case.toml").write_text(micro_case_text)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path / "root"))

    def run(body: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(f"from pathlib import Path\nfrom parity.runs.folder import read_run\n\n{body}")
        return pytester.runpytest_inprocess(*LOADED, "-p", "no:cacheprovider", *arguments)

    return run


def gated(run: Path, rest: str = "") -> str:
    return f"def test_engine(parity_gate):\n    assert parity_gate({str(run)!r}{rest}).outcome == 'parity'\n"


def one_level(made: dict[str, Any]) -> None:
    made["video_frames"][2, 1, 1, 1] += 1


def test_a_run_at_parity_passes_against_a_folder_and_against_the_golden(suite: Suite, leave_run: LeaveRun) -> None:
    official, native = leave_run("official"), leave_run("native", runner="native")
    suite(gated(native, f", against={str(official)!r}")).assert_outcomes(passed=1)
    bless(read_run(official), "first")
    suite(gated(native), "--parity-case", "micro").assert_outcomes(passed=1)


def test_a_run_not_at_parity_fails_with_the_table(suite: Suite, leave_run: LeaveRun) -> None:
    native = leave_run("native", runner="native", change=one_level)
    result = suite(gated(native, f", against={str(leave_run('official'))!r}"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: VERDICT: NOT AT PARITY: 1 of 12 metrics*",
            "*taps are equal in every bit, yet outputs.bit_equal.frames is 0*",
            "*FAIL*outputs.bit_equal.frames*= 1*",
            "*VERDICT: NOT AT PARITY*",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")  # the traceback ends in the engine's own test


def test_what_cannot_be_judged_fails_and_says_so(suite: Suite, leave_run: LeaveRun) -> None:
    official = leave_run("official")
    bare = leave_run("bare", runner="native", blocks=None)
    for body, why in (
        (gated(official), "*could not judge: Case 'micro' has no golden*"),
        (gated(Path("no/such/run")), "*could not judge: There is no folder no/such/run*"),
        (gated(bare, f", against={str(official)!r}"), "*missing_trace*"),
        ("def test_engine(parity_gate):\n    parity_gate(3)\n", "*wants a run's folder or *; got int*"),
    ):
        result = suite(body)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([why])
        result.stdout.no_fnmatch_line("*AssertionError*")


def test_outputs_in_memory_are_judged_as_those_of_the_chosen_case(suite: Suite, leave_run: LeaveRun) -> None:
    official, other = leave_run("official"), leave_run("native", runner="native", change=one_level)
    bless(read_run(official), "first")

    def body(run: Path) -> str:
        return (
            "def test_engine(parity_case, parity_gate):\n    assert parity_case.id == 'micro'\n"
            f"    parity_gate(read_run(Path({str(run)!r})).outputs(), profile='exact')\n"
        )

    suite(body(official), "--parity-case", "micro").assert_outcomes(passed=1)
    result = suite(body(other), "--parity-case", "micro")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*outputs.bit_equal.frames*"])
    judged_by_limits = body(official).replace(", profile='exact'", "")
    result = suite(judged_by_limits, "--parity-case", "micro")
    result.assert_outcomes(failed=1)  # no limits in this checkout: it cannot tell, so it does not pass
    result.stdout.fnmatch_lines(["*could not judge:*consistency_threshold.json*"])


@pytest.fixture
def whole(leave_run: LeaveRun, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole run whose case has a reduced golden, and one limit that holds for what this keeps."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "store"))
    official = leave_run("official", frames=(5, 64, 96))  # large enough for SSIM of small copies
    bless(read_run(official), "first", reduced=True)
    wanted = "video_latent.relative_l2"  # of key frames there is no flicker, so no limit either
    calibration = Calibration(
        date="2026-01-02",
        command="x",
        runs=("y",),
        environment={"device": "cpu"},
        expires_with=("device",),
        compared_on={"micro": subset_phrase(subset_of_case("micro"))},
    )
    limit = derive_limit(METRICS[wanted], floor={"a": (0.01, 0.01)}, defects={"d": (1.0,)}, calibration="c")
    unjudged = {name: "not in this test" for name in METRICS if name != wanted and not name.startswith("frames.flick")}
    registry = Registry(calibrations={"c": calibration}, cases={TableKey("micro"): {wanted: limit}}, unjudged=unjudged)
    (tmp_path / "root" / "thresholds").mkdir()
    save_registry(tmp_path / "root" / "thresholds" / "consistency_threshold.json", registry)
    return official


def in_memory(run: Path, against: object) -> str:
    outputs = f"read_run(Path({str(run)!r})).outputs()"
    return f"def test_engine(parity_gate):\n    parity_gate({outputs}, against={str(against)!r})\n"


def test_outputs_in_memory_are_reduced_where_limits_hold_for_what_a_golden_keeps(suite: Suite, whole: Path) -> None:
    for against in ("golden", whole):
        suite(in_memory(whole, against), "--parity-case", "micro").assert_outcomes(passed=1)


def test_run_folders_are_compared_on_what_a_golden_keeps_where_limits_decide(
    suite: Suite, whole: Path, leave_run: LeaveRun
) -> None:
    fast = leave_run("fast", frames=(5, 64, 96), runner="native", tier="fast")
    for against in ("golden", str(whole)):
        suite(gated(fast, f", against={against!r}")).assert_outcomes(passed=1)


def test_limits_of_something_else_than_a_golden_keeps_decide_nothing(
    suite: Suite, whole: Path, leave_run: LeaveRun, tmp_path: Path
) -> None:
    path = tmp_path / "root" / "thresholds" / "consistency_threshold.json"
    registry = load_registry(path)
    older = msgspec.structs.replace(registry.calibrations["c"], compared_on={"micro": "boxes of 8 px, taps decode/*"})
    save_registry(path, msgspec.structs.replace(registry, calibrations={"c": older}))
    fast = leave_run("fast", frames=(5, 64, 96), runner="native", tier="fast")
    for body in (gated(fast, f", against={str(whole)!r}"), in_memory(whole, whole)):
        result = suite(body, "--parity-case", "micro")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*or on other numbers (compared: boxes of 8 px, taps decode/[*] ->*"])


def test_a_missing_or_unknown_case_is_a_usage_error(suite: Suite, leave_run: LeaveRun) -> None:
    body = "def test_engine(parity_case):\n    pass\n"
    result = suite(body)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*--parity-case is not given*"])
    for asked in (body, "def test_engine(parity_gate):\n    pass\n"):
        result = suite(asked, "--parity-case", "nothing")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*could not judge: *nothing*"])
    native = leave_run("native", runner="native")
    other = gated(native, f", against={str(native)!r}")
    (native.parent / "other.toml").write_text(
        (native.parent / "root/golden/micro/case.toml").read_text().replace('"micro"', '"other"')
    )
    result = suite(other, "--parity-case", str(native.parent / "other.toml"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*is a run of 'micro', and --parity-case is *"])


def test_a_test_runs_once_for_each_case_of_option_ini_or_marker(
    suite: Suite, leave_run: LeaveRun, tmp_path: Path, pytester: pytest.Pytester
) -> None:
    text = (tmp_path / "root/golden/micro/case.toml").read_text()
    for name in ("second", "third"):
        folder = tmp_path / "root" / "golden" / name
        folder.mkdir()
        (folder / "case.toml").write_text(text.replace('"micro"', f'"{name}"'))
    body = "def test_engine(parity_case):\n    print('case', parity_case.id, parity_case.request.num_frames)\n"
    result = suite(body, "-v", "-s", "--parity-case", "micro", "--parity-case", "second")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random(["*test_engine[[]micro[]]*", "*test_engine[[]second[]]*", "*case second 9*"])
    pytester.makeini("[pytest]\nparity_cases =\n    second\n    third\n")
    suite(body).assert_outcomes(passed=2)
    suite(body, "--parity-case", "micro").assert_outcomes(passed=1)  # the command line instead
    marked = f"import pytest\n@pytest.mark.parity('third')\n{body}"
    result = suite(marked, "-v", "--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_engine[[]third[]]*"])
    both = f"{body}\ndef test_other():\n    pass\n"
    suite(both, "-m", "parity").assert_outcomes(passed=2, deselected=1)
    suite(both, "-m", "not parity").assert_outcomes(passed=1, deselected=2)


def test_outputs_in_memory_want_one_case(suite: Suite, leave_run: LeaveRun) -> None:
    official = leave_run("official")
    body = f"def test_engine(parity_gate):\n    parity_gate(read_run(Path({str(official)!r})).outputs())\n"
    for arguments, why in (((), "is not given"), (("--parity-case", "micro") * 2, "names several cases")):
        result = suite(body, *arguments)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"*{why}*"])


def test_a_failure_is_as_long_as_asked_for_and_names_its_page(
    suite: Suite, leave_run: LeaveRun, tmp_path: Path, pytester: pytest.Pytester
) -> None:
    native, official = leave_run("native", runner="native", change=one_level), leave_run("official")
    body = gated(native, f", against={str(official)!r}")
    result = suite(body)
    result.stdout.fnmatch_lines(
        ["*VERDICT: NOT AT PARITY: 1 of 12 metrics*", f"*next: parity explain {native} --against *"]
    )
    result.stdout.no_fnmatch_line("*ok*frames.count.difference*")
    suite(body, "-v").stdout.fnmatch_lines(["*ok*frames.count.difference*"])
    quiet = suite(body, "-q")
    quiet.stdout.fnmatch_lines(["*VERDICT: NOT AT PARITY: 1 of 12 metrics*"])
    quiet.stdout.no_fnmatch_line("*reference: official*")
    pages = tmp_path / "pages"
    result = suite(body, "--parity-report", str(pages))
    (page,) = pages.iterdir()
    result.stdout.fnmatch_lines([f"*report: {page}*"])
    assert page.name.endswith("test_engine.html") and b"Not at parity" in page.read_bytes()
    pytester.makeini(f"[pytest]\nparity_report = {tmp_path / 'others'}\n")
    suite(body)
    assert len(list((tmp_path / "others").iterdir())) == 1
