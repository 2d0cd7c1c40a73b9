"""Registries are read strictly."""

import math
from pathlib import Path

import msgspec
import pytest

from parity.judge.document import load_document
from parity.trace.atomic import write_json_atomic
from runners.errors import RegistryError
from runners.strict import Strict


class Sheet(Strict, frozen=True, kw_only=True):
    number: float
    names: tuple[str, ...] = ()


def test_infinities_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "sheet.json"
    write_json_atomic(path, msgspec.to_builtins(Sheet(number=-math.inf, names=("a",))))
    assert '"-inf"' in path.read_text()
    assert load_document(path, Sheet, "sheet") == Sheet(number=-math.inf, names=("a",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"number": 1.0, "numbr": 2.0}', "unknown field `numbr`"),
        ('{"number": 1.0, "number": 2.0}', "'number' is given twice"),
        ('{"number": NaN}', "NaN is not a JSON number"),
        ('{"number": Infinity}', "Infinity is not a JSON number"),
        ('{"number": "nan"}', "Expected `float`, got `str`"),
        ('{"number": "1.5"}', "Expected `float`, got `str`"),
        ('{"number": 1e999}', "too large"),
        ('{"number": ' + "9" * 9000 + "}", "too large"),
        ('{"number": 1.0, "names": ["inf"]}', "Expected `str`, got `float`"),
        ("{}", "missing required field `number`"),
        ("[" * 100_000, "nested too deeply"),
        ('{"number": ' + "[" * 2000 + "]" * 2000 + "}", "nested too deeply"),  # which JSON itself may still take
        ('{"number": ', r"Expecting value"),
    ],
)
def test_what_is_not_exactly_the_form_is_refused_by_the_files_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(RegistryError, match=rf"some\.json is not .*{message}"):
        load_document(tmp_path / "some.json", Sheet, "sheet")


def test_a_missing_or_binary_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"none\.json is no file .*; wanted a sheet"):
        load_document(tmp_path / "none.json", Sheet, "sheet")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RegistryError, match=r"binary\.json cannot be read"):
        load_document(tmp_path / "binary.json", Sheet, "sheet")
