"""One sentence for each end of a verb, and a traceback that is kept but not shown."""

import sys
import types
from pathlib import Path

import pytest

from parity.report.ending import sentence_of, traceback_of
from runners.errors import RunError


def raised(error: BaseException) -> BaseException:
    """The error with a traceback of this function."""
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RunError("a run"), "error: a run"),
        (RunError("two\n  lines\n\nVERDICT: PARITY"), "error: two\n  lines\n  \n  VERDICT: PARITY"),
        (KeyboardInterrupt(), "interrupted; nothing was left half-written"),
        (SystemExit(0), "error: the code that was run called sys.exit(0); nothing was judged."),
        (BrokenPipeError(32, "Broken pipe"), "error: whoever read the output has gone; nothing was judged."),
        (
            ModuleNotFoundError("No module named 'transformers.models'", name="transformers.models"),
            "error: this needs transformers.models, which is not installed; `pip install 'ltx-parity[native]'` brings "
            "it.",
        ),
        (
            OSError(28, "No space left\non device"),
            "error: a file or folder cannot be read or written ([Errno 28] No space left on device); make room or take "
            "another place.",
        ),
    ],
)
def test_what_can_happen_is_said_in_a_sentence(error: BaseException, sentence: str) -> None:
    assert sentence_of(raised(error)) == sentence


def test_memory_modules_and_text_have_sentences_of_their_own() -> None:
    assert "not enough memory" in sentence_of(raised(MemoryError()))
    assert "a module that is needed cannot be imported (No module named 'x')" in sentence_of(
        raised(ModuleNotFoundError("No module named 'x'"))
    )
    with pytest.raises(UnicodeEncodeError) as caught:
        "\ud800".encode()
    assert sentence_of(caught.value).startswith("error: a text is not Unicode")


def test_a_package_that_breaks_when_it_is_imported_is_named() -> None:
    module = types.ModuleType("broken.part")
    with pytest.raises(RuntimeError) as caught:
        exec(compile("raise RuntimeError('no\\x1bt built')", "broken/part.py", "exec"), module.__dict__)
    assert sentence_of(caught.value).startswith(r"error: broken cannot be imported (RuntimeError: no\x1bt built); ")


def test_a_bug_is_called_one_and_its_traceback_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = raised(KeyError("transformer\x1b"))
    said = sentence_of(error)
    (kept,) = tmp_path.iterdir()
    assert said.startswith("internal error (KeyError: ") and str(kept) in said and "\n" not in said
    text = kept.read_text()
    assert "Traceback" in text and "raise error" in text and "\x1b" not in text and text == traceback_of(error)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert sentence_of(error).endswith("PARITY_DEBUG=1 prints the traceback.")


def test_notes_are_said_as_well() -> None:
    error = RunError("no room")
    error.add_note("The trace could not be closed")
    assert sentence_of(error) == "error: no room\nThe trace could not be closed"


def test_nothing_here_needs_what_may_be_broken() -> None:
    assert "torch" not in {name.partition(".")[0] for name in vars(sys.modules["parity.report.ending"])}
