"""The gate for an engine's own test suite: `pytest --parity-case ID`, and the fixtures `parity_case` and `parity_gate`.

    def test_the_engine_is_still_the_official_model(parity_case, parity_gate):
        parity_gate(my_engine.generate(parity_case))  # outputs in memory, or the folder of a run

Not at parity is an AssertionError that shows every metric beyond its limit. What could not be judged (no golden, no
limits, a missing frame, nothing but NaN) is a failed test too, and says so: a test that cannot tell never passes.
"""

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest

if TYPE_CHECKING:
    from parity.judge.verdict import Profile, Verdict
    from parity.runs.folder import Run, RunOutputs
    from runners.case import Case

OPTION = "--parity-case"
WEIGHTS_OPTION = "--parity-weights"
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
    """Add `--parity-case`."""
    group = parser.getgroup("parity", "parity with the official LTX-2.3")
    group.addoption(
        OPTION, metavar="ID", default=None, help="case that `parity_case` gives and `parity_gate` judges: ID or file"
    )
    group.addoption(
        WEIGHTS_OPTION, metavar="DIR", default=None, help="weights of native runs, to judge what each part adds as well"
    )


@pytest.fixture(scope="session")
def parity_case(pytestconfig: pytest.Config) -> "Case":
    """The case of `--parity-case`: prompt, pictures, shape, seed and guidance to run an engine with."""
    try:
        return _case(pytestconfig)
    except pytest.UsageError:
        raise
    except Exception as error:
        _could_not_judge(error)


@pytest.fixture
def parity_gate(pytestconfig: pytest.Config) -> Gate:
    """A function that judges a run or outputs and fails the test unless they are at parity."""

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
            verdict, why = _judged(pytestconfig, run, str(against), profile, given)
        except pytest.UsageError:
            raise
        except Exception as error:
            _could_not_judge(error)
        if verdict.outcome == "undecided":
            pytest.fail(f"could not judge\n{_drawn(verdict, why)}", pytrace=False)
        if verdict.outcome != "parity":
            raise AssertionError(f"not at parity\n{_drawn(verdict, why)}")
        return verdict

    return gate


def _judged(
    config: pytest.Config,
    run: "Path | str | RunOutputs",
    against: str,
    profile: "Profile | None",
    isolated: Path | None,
) -> tuple["Verdict", str]:
    """The verdict, and where it is none of parity the first line of the explanation."""
    from parity.isolate.saved import isolate_run
    from parity.judge.gate import compare_as_judged, gate, judge_numbers, profile_of
    from parity.runs.folder import RunOutputs, read_run
    from parity.runs.golden import reference_run
    from runners.errors import RunError

    if isinstance(run, RunOutputs):
        return gate(reference_run(against, _case(config).id), run, profile=profile), ""
    if not isinstance(run, str | Path):
        raise RunError(f"parity_gate wants a run's folder or parity.runs.folder.RunOutputs; got {type(run).__name__}.")
    candidate = read_run(Path(run))
    wanted = config.getoption(OPTION)
    if wanted is not None and candidate.case_id != _case(config).id:
        raise RunError(f"{run} is a run of {candidate.case_id!r}, and {OPTION} is {wanted!r}; run that case.")
    reference = reference_run(against, candidate.case_id)
    weights = config.getoption(WEIGHTS_OPTION)
    if weights and isolated is None and candidate.manifest.runner == "native":
        found = compare_as_judged(reference, candidate, profile=profile)
        if (profile or profile_of(found)) == "exact":
            return _with_story(judge_numbers(found, "exact"), reference, candidate, None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "isolated.json"
            isolate_run(reference, candidate, Path(weights), path)
            return _with_story(gate(reference, candidate, isolated=path, profile=profile), reference, candidate, path)
    return _with_story(gate(reference, candidate, isolated=isolated, profile=profile), reference, candidate, isolated)


def _with_story(verdict: "Verdict", reference: "Run", candidate: "Run", isolated: Path | None) -> tuple["Verdict", str]:
    from parity.report.explanation import story_of_runs

    return verdict, "" if verdict.outcome == "parity" else story_of_runs(reference, candidate, verdict, isolated)


def _could_not_judge(error: Exception) -> NoReturn:
    """Fail the test in one sentence, as the command line says it."""
    from parity.report.ending import sentence_of

    pytest.fail(f"could not judge: {sentence_of(error).removeprefix('error: ')}", pytrace=False)


def _case(config: pytest.Config) -> "Case":
    from parity.runs.golden import find_case

    name: Any = config.getoption(OPTION)
    if name is None:
        raise pytest.UsageError(f"{OPTION} is not given; name a case under golden/ or the path of a TOML file.")
    return find_case(str(name))


def _drawn(verdict: "Verdict", why: str) -> str:
    """The verdict as `parity gate` prints it."""
    from parity.report.tables import draw_gate
    from parity.report.terminal import Terminal
    from parity.report.words import in_words

    paper = io.StringIO()
    draw_gate(Terminal(file=paper, width=REPORT_WIDTH), in_words(verdict, why=why))
    return paper.getvalue()
