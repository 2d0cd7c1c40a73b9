"""The one reader of small files that may come from a stranger: text of a bounded size, strict JSON, a known form.

`runners.files` opens the file. Keys given twice, NaN and Infinity, numbers too large to hold, more values or deeper
nesting than any form here has, and where the form says so unknown keys, are errors of the caller's kind, which say what
arrived and what to do. JSON has no infinities: `parity.trace.atomic.plain` writes them as strings, and `floats` names
the keys of a document in which those are read back.
"""

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, TypeVar

from runners.errors import ParityError
from runners.files import HeldFile, read_bytes

Form = TypeVar("Form")
MAX_BYTES: Final = 16 << 20  # unless the caller knows less to be enough; three times the largest there ever was
MAX_VALUES: Final = 1_000_000  # a few bytes of text can say a value that takes a hundred
MAX_DEPTH: Final = 64  # of lists and tables in one another; no form here has ten
MAX_KEY_PARTS: Final = 8  # of a dotted key in TOML; a case has three
# Text in which dots divide no key, and comments; also such text without an end, which is no TOML, so that every quote
# is looked at once.
_NO_KEYS: Final = re.compile(
    r"""\"{3}(?:[^\\]|\\.|\\\Z)*?(?:\"{3}|\Z)|'{3}.*?(?:'{3}|\Z)|\"(?:[^\"\\\n]|\\.)*\"?|'[^'\n]*'?|#[^\n]*""",
    re.DOTALL,
)
_KEY: Final = re.compile(r"[\w'. \t-]+")
_NO_JSON_NUMBERS: Final = ("inf", "-inf", "nan")


def load(
    path: Path | HeldFile,
    form: type[Form],
    error: type[ParityError],
    remedy: str,
    *,
    max_bytes: int = MAX_BYTES,
    version: int | None = None,
    floats: Collection[str] = (),
) -> Form:
    """Read a JSON file into a form.

    Args:
        path: of the file.
        form: as `msgspec.convert` takes it: a struct, a dataclass, `dict`.
        error: kind of error to raise.
        remedy: what the file should be and where one comes from, as the end of a sentence.
        max_bytes: the largest size that is read.
        version: the only `schema_version` that is read; None asks for none.
        floats: keys of the document whose strings "inf", "-inf" and "nan" are floats.
    Raises: `error` naming the file and the key or value that is wrong.
    """
    import msgspec  # an engine's own interpreter need not have it, see `runners.strict`

    value: Any = parse(read_text(path, error, remedy, max_bytes=max_bytes), str(path), error, remedy)
    if version is not None:
        found = value.get("schema_version") if isinstance(value, dict) else None
        if type(found) is not int or found != version:
            raise error(f"{path} has schema version {str(found)[:40]}; wanted {version}; {remedy}.")
    try:
        if isinstance(value, dict):
            value = {name: _float_back(item) if name in floats else item for name, item in value.items()}
        return msgspec.convert(value, form, strict=True)
    except (msgspec.ValidationError, RecursionError) as problem:
        if isinstance(problem.__cause__, ParityError):  # a form's own refusal
            raise problem.__cause__ from None
        raise error(f"{path} does not have its form ({problem}); {remedy}.") from problem


def read_text(path: Path | HeldFile, error: type[ParityError], remedy: str, *, max_bytes: int = MAX_BYTES) -> str:
    """The UTF-8 text of a regular file of at most `max_bytes`. Raises: `error`."""
    try:
        return read_bytes(path, error, remedy, max_bytes=max_bytes).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path} cannot be read as UTF-8 text ({problem}); {remedy}.") from problem


def parse(text: str, origin: str, error: type[ParityError], remedy: str) -> Any:
    """The value of strict JSON text. Raises: `error`, in which the text is called `origin`."""
    try:
        if sum(map(text.count, ",[{")) > MAX_VALUES:  # before anything is made of them
            raise ValueError(f"it holds more than {MAX_VALUES} values")
        value = json.loads(
            text, object_pairs_hook=_each_key_once, parse_constant=_refuse, parse_float=_finite, parse_int=_whole
        )
        _require_shallow(value)
        if "\\ud" in text.lower():  # escapes may spell half a character, which nothing can write again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as problem:
        why = "it is nested too deeply" if isinstance(problem, RecursionError) else problem
        raise error(f"{origin} is not valid JSON ({why}); {remedy}.") from problem


def keys_in(path: Path, error: type[ParityError], remedy: str) -> set[str]:
    """Every key of a JSON file, at whatever depth; numbers may be such as other programs write. Raises: `error`."""
    found: set[str] = set()
    text = read_text(path, error, remedy)
    try:
        json.loads(text, object_pairs_hook=lambda pairs: found.update(name for name, _ in pairs), parse_int=len)
    except (ValueError, RecursionError) as problem:
        why = "it is nested too deeply" if isinstance(problem, RecursionError) else problem
        raise error(f"{path} is not valid JSON ({why}); {remedy}.") from problem
    return found


def parse_toml(text: str, origin: str, error: type[ParityError], remedy: str) -> dict[str, Any]:
    """The tables of TOML text. Raises: `error`, in which the text is called `origin`."""
    try:
        if any(key.count(".") >= MAX_KEY_PARTS for key in _KEY.findall(_NO_KEYS.sub("''", text))):  # quadratic to parse
            raise tomllib.TOMLDecodeError(f"a key has more than {MAX_KEY_PARTS} parts")
        tables = tomllib.loads(text)
        _require_shallow(tables)
        return tables
    except (ValueError, RecursionError) as problem:  # not every refusal of the parser is a TOMLDecodeError
        why = "it is nested too deeply" if isinstance(problem, RecursionError) else problem
        raise error(f"{origin} is not valid TOML: {why}; {remedy}.") from problem


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for one in level
            if isinstance(one, list | dict)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _float_back(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _float_back(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_float_back(item) for item in value]
    return float(value) if value in _NO_JSON_NUMBERS else value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice[:100]!r} is given twice")
    return table


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is too large for a float64")
    return number


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"{text[:20]}... is too large for a whole number")
    return int(text)
