"""The end of a verb in one sentence, with its traceback kept where the sentence says.

Everything that a user can cause is of the error tree and says itself what to do. The rest gets a sentence here: nothing
that is raised may end as a traceback, nor as an exit code that reads as a verdict.
"""

import os
import tempfile
import traceback
from types import TracebackType
from typing import Final

from runners.errors import ParityError
from runners.printable import printable, printable_lines

DEBUG: Final = "PARITY_DEBUG"  # environment variable: print tracebacks
EXTRA_OF: Final = {  # modules that the wheel alone does not bring, and the extra that does
    **dict.fromkeys(("transformers", "sentencepiece", "google"), "native"),
    **dict.fromkeys(("ltx_core", "ltx_pipelines"), "official"),
    **dict.fromkeys(("diffusers", "accelerate", "peft"), "diffusers"),
}
MOST_SHOWN: Final = 400  # characters of a message that is not ours


def sentence_of(error: BaseException) -> str:
    """One printable sentence for whatever ended a verb, its notes as further lines; a bug's traceback is kept."""
    lines = [_sentence(error), *getattr(error, "__notes__", ())]
    return printable_lines("\n".join("\n  ".join(line.strip() for line in text.split("\n")) for text in lines))


def debugging() -> bool:
    """True if tracebacks are to be printed."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def traceback_of(error: BaseException) -> str:
    """The traceback of an error, made printable; before it that of an engine, where this process has none of that."""
    engine = getattr(error, "engine_traceback", "") if error.__cause__ is None else ""
    return printable_lines(f"{engine.rstrip()}\n\n" * bool(engine) + "".join(traceback.format_exception(error)))


def _sentence(error: BaseException) -> str:
    if isinstance(error, ParityError):
        return f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was left half-written"
    if isinstance(error, SystemExit):  # an engine that ends the process it runs in
        return f"error: the code that was run called sys.exit({error.code!r}); nothing was judged."
    if isinstance(error, MemoryError):
        return "error: there is not enough memory here; nothing was judged. Take a machine, or a limit, with more."
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRA_OF.get((error.name or "").partition(".")[0])):
        return f"error: this needs {error.name}, which is not installed; `pip install 'ltx-parity[{extra}]'` brings it."
    if isinstance(error, ImportError):
        return f"error: a module that is needed cannot be imported ({_said(error)}); {_kept(error)}"
    if (module := _imported(error.__traceback__)) is not None:  # a broken installation raises whatever it likes
        return f"error: {module} cannot be imported ({type(error).__name__}: {_said(error)}); {_kept(error)}"
    if isinstance(error, BrokenPipeError):
        return "error: whoever read the output has gone; nothing was judged."
    if isinstance(error, UnicodeError):  # half characters, as an argument that is no UTF-8 brings them
        return f"error: a text is not Unicode ({_said(error)}); give it in UTF-8."
    if isinstance(error, OSError):  # a disk that is full or read-only, a folder in a file's place
        return f"error: a file or folder cannot be read or written ({_said(error)}); make room or take another place."
    return f"internal error ({type(error).__name__}: {_said(error)}), please report it; {_kept(error)}"


def _said(error: BaseException) -> str:
    return printable(" ".join(str(error).split()))[:MOST_SHOWN]


def _imported(trace: TracebackType | None) -> str | None:
    """The package at whose import an error arose; None if it arose elsewhere."""
    for frame, _ in traceback.walk_tb(trace):
        if frame.f_code.co_name == "<module>" and (name := frame.f_globals.get("__name__")) != "__main__":
            return str(name).partition(".")[0]
    return None


def _kept(error: BaseException) -> str:
    """Keep the traceback in a new file of the folder for temporary files; says where."""
    try:
        handle, name = tempfile.mkstemp(prefix="parity-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(traceback_of(error))
    except OSError:
        return f"{DEBUG}=1 prints the traceback."
    return f"the traceback is in {name}, and {DEBUG}=1 prints it."
