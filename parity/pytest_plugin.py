"""The gate for an engine's own test suite: `pytest --parity-case ID`, and the fixtures `parity_case` and `parity_gate`.

    def test_the_engine_is_still_the_official_model(parity_case, parity_gate):
        parity_gate(my_engine.generate(parity_case))  # outputs in memory, or the folder of a run

A test that takes `parity_case` runs once for each case: those of its marker `@pytest.mark.parity("tiny_ti2v")`, else of
`--parity-case`, which may be given several times, else of `parity_cases` in the ini file. Every test that takes one of
the fixtures carries the marker, so that `-m parity` and `-m "not parity"` choose.

Not at parity is an AssertionError in the gate's words: short, all metrics with -v, the first line alone with -q. What
could not be judged (no golden, no limits, a missing frame, nothing but NaN) is a failed test too, and says so: a test
that cannot tell never passes. With `--parity-report DIR` a run that fails leaves its page there.
"""

import io
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import pytest

if TYPE_CHECKING:
    from parity.judge.verdict import Profile, Verdict
    from parity.runs.folder import Run, RunOutputs
    from runners.case import Case

OPTION = "--parity-case"
WEIGHTS_OPTION = "--parity-weights"
REPORT_OPTION = "--parity-report"
MARKER = "parity"
GOLDEN = "golden"
REPORT_WIDTH = 150  # columns of the table in a failure


class Gate(Protocol):
    """The type of `parity_gate`."""

    def __call__(
        self,
        run: "Path | str | RunOutputs",
        *,
        against: Path | str = GOLDEN,
        profile: "Profile | None" = None,
        isolated: Path | str | None = None,
    ) -> "Verdict":
        """Judge a run.

        Args:
            run: folder that `parity run` (or any adapter) left, or outputs in memory, `parity.runs.folder.RunOutputs`;
                outputs are those of the case that `--parity-case` names.
            against: a reference run's folder, `golden`, or `whole-golden` from the store.
            profile: "exact" for equal bits, "limits" for the registry; None decides as `parity gate` does, and judges
                outputs in memory by limits.
            isolated: what `parity isolate --out` left of the run, to be judged as well; None isolates a run of the
                native runner by itself where it is judged by limits and `--parity-weights` is given.
        Returns: the verdict, which is parity.
        Raises: AssertionError if the run is not at parity; the failure of the test, if it could not be judged.
        """


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each with a setting of the ini file."""
    group = parser.getgroup("parity", "parity with the official LTX-2.3")
    case = "case that `parity_case` gives and `parity_gate` judges: ID or file"
    weights = "weights of native runs, to judge what each part adds as well"
    report = "folder for the page of each run that fails"
    group.addoption(OPTION, metavar="ID", action="append", default=None, help=f"{case}; repeat for more")
    group.addoption(WEIGHTS_OPTION, metavar="DIR", default=None, help=weights)
    group.addoption(REPORT_OPTION, metavar="DIR", default=None, help=report)
    parser.addini("parity_cases", f"{case}, one a line", type="linelist", default=[])
    parser.addini("parity_weights", weights, type="string", default="")
    parser.addini("parity_report", report, type="string", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", f"{MARKER}(*cases): judged against the official LTX-2.3, on these cases")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test that takes `parity_case` run once for each case."""
    if "parity_case" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker(MARKER)
    names = list(marker.args) if marker is not None and marker.args else _names(metafunc.config)
    ids = [Path(name).stem if name.endswith(".toml") else name for name in names]
    metafunc.parametrize("parity_case", names or [None], indirect=True, ids=ids or [""], scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that takes one of the fixtures."""
    for item in items:
        taken = getattr(item, "fixturenames", ())
        if {"parity_case", "parity_gate"} & set(taken) and item.get_closest_marker(MARKER) is None:
            item.add_marker(MARKER)


@pytest.fixture(scope="session")
def parity_case(request: pytest.FixtureRequest) -> "Case":
    """The case to run an engine with: `id`, `request`, `guidance`, `switches`; see `runners.case.Case`."""
    return _case(getattr(request, "param", None))


@pytest.fixture
def parity_gate(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Gate:
    """A function that judges a run or outputs and fails the test unless they are at parity."""
    taken = "parity_case" in request.fixturenames
    cases = [request.getfixturevalue("parity_case")] if taken else [_case(name) for name in _names(pytestconfig)]
    marker = request.node.get_closest_marker(MARKER)
    if not taken and marker is not None and marker.args:
        cases = [_case(name) for name in marker.args]

    def gate(
        run: "Path | str | RunOutputs",
        *,
        against: Path | str = GOLDEN,
        profile: "Profile | None" = None,
        isolated: Path | str | None = None,
    ) -> "Verdict":
        __tracebackhide__ = True
        try:
            given = None if isolated is None else Path(isolated)
            verdict, pair, alone = _judged(pytestconfig, cases, run, str(against), profile, given)
            said = "" if verdict.outcome == "parity" else _said(pytestconfig, request.node.nodeid, verdict, pair, alone)
        except pytest.UsageError:
            raise
        except Exception as error:
            _could_not_judge(error)
        if verdict.outcome == "undecided":
            pytest.fail(f"could not judge\n{said}", pytrace=False)
        if verdict.outcome != "parity":
            raise AssertionError(said)  # its first line, the verdict, stands in the summary of pytest, too
        return verdict

    return gate


def _judged(
    config: pytest.Config,
    cases: "list[Case]",
    run: "Path | str | RunOutputs",
    against: str,
    profile: "Profile | None",
    isolated: Path | None,
) -> "tuple[Verdict, tuple[Run, Run] | None, Path | None]":
    """The verdict, the two runs where both are runs, and the file of isolated errors that was given."""
    from parity.judge.gate import compare_as_judged, gate, judge_numbers, profile_of
    from parity.runs.folder import RunOutputs, read_run
    from parity.runs.golden import reference_run
    from runners.errors import RunError

    if isinstance(run, RunOutputs):
        if len(cases) != 1:
            wanted = "is not given" if not cases else "names several cases"
            raise pytest.UsageError(
                f"{OPTION} {wanted}, and outputs in memory do not say of which case they are; let the test take the "
                "fixture parity_case."
            )
        return gate(reference_run(against, cases[0].id), run, profile=profile), None, None
    if not isinstance(run, str | Path):
        raise RunError(f"parity_gate wants a run's folder or parity.runs.folder.RunOutputs; got {type(run).__name__}.")
    candidate = read_run(Path(run))
    ids = [case.id for case in cases]
    if ids and candidate.case_id not in ids:
        raise RunError(f"{run} is a run of {candidate.case_id!r}, and {OPTION} is {', '.join(ids)!r}; run that case.")
    reference = reference_run(against, candidate.case_id)
    pair = reference, candidate
    weights = _setting(config, WEIGHTS_OPTION)
    if weights and isolated is None and candidate.manifest.runner == "native":
        found = compare_as_judged(reference, candidate, profile=profile)
        if (profile or profile_of(found)) == "exact":
            return judge_numbers(found, "exact"), pair, None
        from parity.isolate.saved import isolate_run  # runs a model, which judging needs nothing of

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "isolated.json"
            isolate_run(reference, candidate, Path(weights), path)
            return gate(reference, candidate, isolated=path, profile=profile), pair, None
    return gate(reference, candidate, isolated=isolated, profile=profile), pair, isolated


def _said(
    config: pytest.Config,
    test: str,
    verdict: "Verdict",
    runs: "tuple[Run, Run] | None",
    isolated: Path | None,
) -> str:
    """A verdict as `parity gate` prints it, its page where one is asked for, and what to type next."""
    from parity.report.explanation import told_of_runs
    from parity.report.tables import draw_gate
    from parity.report.terminal import Terminal
    from parity.report.words import in_words, next_steps

    why, first = ("", "") if runs is None else told_of_runs(*runs, verdict, isolated)
    steps = [] if runs is None else list(next_steps(str(runs[1].folder), str(runs[0].folder)))
    if runs is not None and (folder := _setting(config, REPORT_OPTION)):
        steps = [steps[0], f"report: {_page(Path(folder), test, *runs, isolated)}"]
    said = in_words(verdict, why=why, first=first)
    if config.option.verbose < 0:
        return "\n".join([said.first_line, *steps])
    paper = io.StringIO()
    draw_gate(Terminal(file=paper, width=REPORT_WIDTH), said, whole=config.option.verbose > 0, steps=steps)
    return paper.getvalue()


def _page(folder: Path, test: str, reference: "Run", candidate: "Run", isolated: Path | None) -> Path:
    """Draw the page of a run that failed, named after the test."""
    from parity.report.page import write_page
    from parity.report.page_content import content_of

    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', test)[-150:]}.html"
    write_page(page, content_of(reference, candidate, isolated=isolated))
    return page


def _could_not_judge(error: Exception) -> NoReturn:
    """Fail the test in one sentence, as the command line says it."""
    from parity.report.ending import sentence_of

    pytest.fail(f"could not judge: {sentence_of(error).removeprefix('error: ')}", pytrace=False)


def _case(name: str | None) -> "Case":
    from parity.runs.golden import find_case

    if name is None:
        raise pytest.UsageError(f"{OPTION} is not given; name a case under golden/ or the path of a TOML file.")
    try:
        return find_case(str(name))
    except Exception as error:
        _could_not_judge(error)


def _names(config: pytest.Config) -> list[str]:
    """The cases of the command line, else of the ini file."""
    return list(config.getoption(OPTION) or config.getini("parity_cases"))


def _setting(config: pytest.Config, option: str) -> str:
    """An option, else its setting in the ini file; empty if neither is given."""
    return str(config.getoption(option) or config.getini(option.removeprefix("--").replace("-", "_")))
