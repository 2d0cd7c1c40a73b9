"""Small files of strangers: read once, whole and strictly, or refused by the caller's error with what to do."""

import math
import os
import time
from pathlib import Path

import msgspec
import pytest

from runners.errors import CaseError, RegistryError, RunError
from runners.load import MAX_DEPTH, load, parse, parse_toml, read_text

REMEDY = "write one"


class Sheet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema_version: int = 1
    numbers: dict[str, list[float]] = {}
    names: tuple[str, ...] = ()


def sheet(text: str, folder: Path) -> Path:
    (folder / "sheet.json").write_text(text, encoding="utf-8")
    return folder / "sheet.json"


def test_infinities_and_nan_are_read_back_where_the_caller_says_and_nowhere_else(tmp_path: Path) -> None:
    path = sheet('{"schema_version": 1, "numbers": {"a": [1, "inf", "-inf", "nan"]}, "names": ["inf"]}', tmp_path)
    found = load(path, Sheet, RunError, REMEDY, version=1, floats=("numbers",))
    assert found.names == ("inf",) and found.numbers["a"][:3] == [1.0, math.inf, -math.inf]
    assert math.isnan(found.numbers["a"][3])
    with pytest.raises(RunError, match=r"Expected `float`, got `str` - at `\$\.numbers"):
        load(path, Sheet, RunError, REMEDY)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"sheet\.json is not valid JSON \(Expecting value"),
        ("{} {}", "not valid JSON .*Extra data"),
        ("[" * 100_000, "not valid JSON .*nested too deeply"),
        ("[" * 65 + "]" * 65, "not valid JSON .*nested too deeply"),
        ('{"numbers": [' + "{}," * 1_000_000 + "{}]}", "not valid JSON .*more than 1000000 values"),
        ("{" + ",".join(f'"{place}": 0' for place in range(200_000)) + ', "7": 1}', "'7' is given twice"),
        ('{"names": [], "names": ["x"]}', "'names' is given twice"),
        ('{"numbers": {"a": [NaN]}}', "NaN is not a JSON number"),
        ('{"numbers": {"a": [-Infinity]}}', "-Infinity is not a JSON number"),
        ('{"numbers": {"a": [1e999]}}', "1e999 is too large for a float64"),
        ('{"schema_version": ' + "9" * 5000 + "}", "is too large for a whole number"),
        ('{"names": ["\\ud800"]}', "not valid JSON .*surrogates not allowed"),
        ('{"schema_version": 1, "surprise": 1}', "does not have its form .*unknown field `surprise`"),
        ('{"schema_version": 1, "numbers": {"a": ["1.5"]}}', "does not have its form .*Expected `float`, got `str`"),
        ('{"schema_version": 2}', "has schema version 2; wanted 1; write one"),
        ('{"schema_version": true}', "has schema version True; wanted 1"),
        ("{}", "has schema version None; wanted 1"),
        ("[]", "has schema version None; wanted 1"),
    ],
)
def test_what_is_not_exactly_the_form_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=sentence) as refused:
        load(sheet(text, tmp_path), Sheet, RegistryError, REMEDY, version=1, floats=("numbers",))
    assert str(refused.value).endswith("; write one.")


def test_half_a_character_that_is_whole_with_the_next_is_text() -> None:
    assert parse('"\\ud83d\\ude00"', "x", RunError, REMEDY) == "\U0001f600"


def test_a_forms_own_refusal_stands(tmp_path: Path) -> None:
    class Even(msgspec.Struct):
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise CaseError("An even number is wanted.")

    with pytest.raises(CaseError, match=r"^An even number is wanted\.$"):
        load(sheet('{"number": 3}', tmp_path), Even, CaseError, REMEDY)


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = sheet("12345", tmp_path)
    assert read_text(path, RunError, REMEDY, max_bytes=5) == "12345"
    with pytest.raises(RunError, match=r"sheet\.json has more than 4 bytes; write one\.$"):
        read_text(path, RunError, REMEDY, max_bytes=4)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(RunError, match=r"is not a regular file; write one\.$"):
            read_text(path, RunError, REMEDY)
    for path in (tmp_path / "none", tmp_path / "zero\0byte"):
        with pytest.raises(RunError, match=r"is no file that can be read .*; write one"):
            read_text(path, RunError, REMEDY)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="binary cannot be read as UTF-8 text"):
        read_text(tmp_path / "binary", RunError, REMEDY)


def test_as_deep_as_may_be_is_read() -> None:
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse(deep, "it", RunError, REMEDY) and parse_toml(f"a = {deep[1:-1]}", "it", RunError, REMEDY)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a" + ".a" * 20_000 + " = 1", "a key has more than 8 parts"),
        ("[" + " . ".join("a" * 20_000) + "]", "a key has more than 8 parts"),
        ("x = {a" + ".'b c'" * 20_000 + " = 1}", "a key has more than 8 parts"),
        ("a = " + "[" * 60_000, "nested too deeply"),
        ("a = " + "{b=" * 40_000, "nested too deeply"),
        ('a = "' + '\\"' * 60_000, "not valid TOML"),
        ("a" * 120_000, "not valid TOML"),
        ('a = """' + "." * 100_000, "not valid TOML"),
        ("a =  + a" * 30_000, "not valid TOML"),
    ],
)
def test_toml_that_takes_long_to_parse_is_refused_at_once(text: str, sentence: str) -> None:
    before_s = time.process_time()
    with pytest.raises(CaseError, match=sentence):
        parse_toml(text, "It", CaseError, REMEDY)
    assert time.process_time() - before_s < 1


def test_dots_in_text_and_comments_divide_no_key() -> None:
    dots = "." * 20
    text = f"""
a.b.'c'.d = "{dots}"  # {dots}
e = '{dots}'
f = \"\"\"{dots}
"quoted" {dots} \\t
\"\"\"
g = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.5]
"""
    found = parse_toml(text, "It", CaseError, REMEDY)
    assert found["a"] == {"b": {"c": {"d": dots}}} and found["e"] == dots and len(found["g"]) == 10
    assert found["f"] == f'{dots}\n"quoted" {dots} \t\n'
