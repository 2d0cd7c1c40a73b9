"""Damage done to a document of a known form, drawn by hypothesis: bytes, structure, values, and the kind of file.

Each damage says whether what is left is still as good as it was: where it surely is not, no verb may call it good.
"""

import json
import os
import struct
import tomllib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from hypothesis import strategies as st

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]
PathOf = tuple[str | int, ...]
MARK = "@@here@@"
SPARSE_BYTES = 6 << 30

# What stands in the place of a value, as text of JSON; TOML reads most of it alike.
JUNK = (
    *("null", "true", "0", "-1", "1", "2", "0.5", "-0.0", "1e308", "-1e308", "1e999", "NaN", "Infinity", "-Infinity"),
    *("9223372036854775808", "18446744073709551616", "9" * 400, "-" + "9" * 30, "1e-320", "99999999999"),
    *('""', '" "', '"nan"', '"inf"', '"-inf"', '"0"', '"."', '".."', '"../../x"', '"/etc/passwd"', '"/"', '"*"'),
    *('"\\u0000"', '"\\ud800"', '"\\u001b[2J\\u001b]0;x\\u0007"', '"::error::x"', '"a\\nb"', '"%s%n"', '"{}"'),
    *('"' + "x" * 100_000 + '"', '"' + "[" * 50_000 + '"', '"' + "é" * 300 + '"', '"custom"', '"official"', '"1.2.0"'),
    *("[]", "{}", "[[]]", '{"a": 1}', "[null]", "[" + "0," * 5000 + "0]", "[" * 300 + "]" * 300, "[" * 20_000),
    *('{"a":' * 300 + "1" + "}" * 300, "[" + "{}," * 50_000 + "{}]"),
)


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Damage in words, and whether a verb that judges by it must not come to a good end."""

    what: str
    must_not_pass: bool


# ------------------------------------------------------------------ any file


def broken_bytes(draw: Draw[Any], data: bytes) -> tuple[bytes, str]:
    """Bytes changed, cut, doubled, added or emptied."""
    kind = draw(
        st.sampled_from(("flip", "set", "cut", "drop", "double", "append", "prepend", "empty", "zeros", "other"))
    )
    place = draw(st.integers(0, max(0, len(data) - 1)))
    if kind == "flip" and data:
        changed = bytearray(data)
        changed[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed), f"bit of byte {place} flipped"
    if kind == "set" and data:
        return data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :], f"byte {place} set"
    if kind == "cut":
        return data[:place], f"cut at {place}"
    size = draw(st.integers(1, 64))
    if kind == "drop":
        return data[:place] + data[place + size :], f"{size} bytes dropped at {place}"
    if kind == "double":
        return data[:place] + data[place : place + size] * 2 + data[place + size :], f"{size} bytes doubled at {place}"
    if kind == "append":
        return data + draw(st.binary(min_size=1, max_size=64)), "bytes appended"
    if kind == "prepend":
        return draw(st.sampled_from((b"\xef\xbb\xbf", b"\0", b"PK\3\4", b"\x80\4"))) + data, "bytes prepended"
    if kind == "zeros":
        return bytes(len(data)), "all zeros"
    if kind == "other":
        return draw(st.binary(max_size=200)), "other bytes"
    return b"", "emptied"


FILE_KINDS = ("missing", "pipe", "folder", "zeros without end", "loop of links", "dangling link", "sparse")


def other_kind(path: Path, kind: str) -> None:
    """Put something that is no such file in a file's place."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "inside").write_text("x")
    elif kind == "zeros without end":
        path.symlink_to("/dev/zero")
    elif kind == "loop of links":
        path.symlink_to(path.name)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(SPARSE_BYTES)


# ------------------------------------------------------------------ JSON and TOML


def places(value: Any, here: PathOf = ()) -> list[PathOf]:
    """The paths of everything in a document, at most the first three of a list."""
    found = [here] if here else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += places(item, (*here, name))
    elif isinstance(value, list):
        for index, item in enumerate(value[:3]):
            found += places(item, (*here, index))
    return found


def at(value: Any, place: Sequence[str | int]) -> Any:
    """The value at a path, in which "*" is every item of a list; a `MARK` if nothing lies there."""
    for index, key in enumerate(place):
        if key == "*" and isinstance(value, list):
            return [at(item, place[index + 1 :]) for item in value]
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return MARK
    return value


def broken_structure(draw: Draw[Any], document: Any) -> tuple[Any, str, str]:
    """A document with one place changed, the JSON text that is to stand at MARK, and what was done."""
    changed = json.loads(json.dumps(document))
    place = draw(st.sampled_from(places(changed) or [()]))
    if not place:
        return MARK, draw(st.sampled_from(JUNK)), "all of it replaced"
    holder, key = at(changed, place[:-1]), place[-1]
    where = ".".join(map(str, place))
    kind = draw(st.sampled_from(("remove", "replace", "replace", "replace", "rename", "add", "list")))
    if kind == "remove":
        del holder[key]
        return changed, "", f"{where} removed"
    if kind == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from(("", "x", f"{key} ", str(key).upper(), "\0", "__class__")))] = holder.pop(key)
        return changed, "", f"{where} renamed"
    if kind == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(("surprise", "schema_version", "folder", "", "__proto__")))] = 1
        return changed, "", f"a key added beside {where}"
    if kind == "list" and isinstance(holder, list):
        count = draw(st.sampled_from((2, 3, 1000)))
        holder[:] = draw(st.sampled_from((holder * count, holder[::-1], holder[:1], [])))
        return changed, "", f"list at {where} changed"
    holder[key] = MARK
    junk = draw(st.sampled_from(JUNK))
    return changed, junk, f"{where} = {junk[:40]}"


def broken_json(draw: Draw[Any], text: bytes, binding: Sequence[PathOf]) -> tuple[bytes, Damage]:
    """A JSON document, damaged. It must not pass if it is no strict JSON, or one of the binding places changed."""
    document = json.loads(text)
    if draw(st.sampled_from((False, False, False, True))):
        data, what = broken_bytes(draw, text)
    else:
        kind = draw(st.sampled_from(("structure", "structure", "structure", "twice", "spaces", "order", "deep")))
        if kind == "twice" and isinstance(document, dict) and document:
            name = draw(st.sampled_from(sorted(document)))
            inner = text.strip()[1:]
            data, what = b"{" + json.dumps(name).encode() + b": null, " + inner, f"{name} given twice"
        elif kind == "spaces":
            data, what = b"\n " + json.dumps(document, indent=draw(st.integers(0, 5))).encode() + b" \n", "other spaces"
        elif kind == "order" and isinstance(document, dict):
            data, what = json.dumps(dict(reversed(document.items()))).encode(), "another order of keys"
        elif kind == "deep":
            depth = draw(st.sampled_from((100, 2000, 100_000)))
            data, what = b"[" * depth + text + b"]" * depth, f"within {depth} lists"
        else:
            changed, junk, what = broken_structure(draw, document)
            data = json.dumps(changed).replace(json.dumps(MARK), junk).encode()
    return data, Damage(what=what, must_not_pass=_differs(document, data, json.loads, binding))


def broken_toml(draw: Draw[Any], text: bytes, binding: Sequence[PathOf]) -> tuple[bytes, Damage]:
    """A TOML document, damaged. It must not pass if it is no TOML, or one of the binding places changed."""
    document, alike = tomllib.loads(text.decode()), None
    kind = draw(st.sampled_from(("bytes", "structure", "structure", "dots", "nested", "tables", "comment")))
    if kind == "bytes":
        data, what = broken_bytes(draw, text)
    elif kind == "dots":
        many = draw(st.sampled_from((5, 50, 20_000)))
        data, alike = (text + b"\n[x]\na" + b".a" * parts + b" = 1\n" for parts in (many, 1))
        what = "a key of many parts"
    elif kind == "nested":
        depth = draw(st.sampled_from((50, 500, 50_000)))
        data, what = b"x = " + b"[" * depth + b"]" * depth + b"\n" + text, f"{depth} lists in one another"
    elif kind == "tables":
        data, what = text + b"".join(b"[t%d]\n" % place for place in range(8000)), "8000 tables"
    elif kind == "comment":
        data, what = b"# a comment\n\n" + text + b"\n# another\n", "comments"
    else:
        changed, junk, what = broken_structure(draw, document)
        plain = json.loads(
            json.dumps(changed), object_hook=lambda table: {k: v for k, v in table.items() if v is not None}
        )
        data = (tomli_w.dumps(plain) if isinstance(plain, dict) else junk).replace(json.dumps(MARK), junk).encode()
    # Of a key of 20,000 parts tomllib takes ten seconds; of two, the document says the same at the places that bind.
    return data, Damage(what=what, must_not_pass=_differs(document, alike or data, tomllib.loads, binding))


def _differs(document: Any, data: bytes, read: Callable[[str], Any], binding: Sequence[PathOf]) -> bool:
    try:
        found = read(data.decode())
    except (ValueError, RecursionError):
        return True
    same = at(found, ()) == document and repr(found) == repr(document)
    return not same and any(_unordered(at(found, place)) != _unordered(at(document, place)) for place in binding)


def _unordered(value: Any) -> Any:
    """A value in which the order of a list counts for nothing: places and stages are named."""
    return sorted(map(repr, value)) if isinstance(value, list) else value


# ------------------------------------------------------------------ safetensors, journals, pictures


def parts_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header, data[8 + length :]


def joined(header: bytes, tensors: bytes) -> bytes:
    """The file of a header and tensors."""
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + tensors


def broken_tensors(draw: Draw[Any], data: bytes, deciding: Sequence[str]) -> tuple[bytes, Damage]:
    """A safetensors file, damaged in its header, its tensors or both.

    Args:
        draw: of hypothesis.
        data: the file.
        deciding: tensors no bit of which may change and pass.
    """
    header, tensors = parts_of(data)
    names = [name for name in header if name != "__metadata__"]
    kinds = ("value", "numbers", "value", "header", "bytes", "length", "swap", "cut", "extra", "spaces", "value")
    kind = draw(st.sampled_from(kinds))
    if kind == "bytes":
        changed, what = broken_bytes(draw, data)
        return changed, Damage(what=what, must_not_pass=changed != data and not _only_free(data, changed, deciding))
    if kind == "length":
        length = draw(st.sampled_from((0, 1, 7, len(data), len(data) - 8, 1 << 24, 1 << 31, 1 << 62, (1 << 64) - 1)))
        return length.to_bytes(8, "little") + data[8:], Damage(what=f"header of {length} bytes", must_not_pass=True)
    if kind == "header":
        text, damage = broken_json(draw, json.dumps(header).encode(), [(name,) for name in names])
        return joined(text, tensors), damage
    if kind == "spaces":
        return joined(json.dumps(header, indent=3).encode(), tensors), Damage(what="spaces", must_not_pass=False)
    name = draw(st.sampled_from(names))
    begin, end = header[name]["data_offsets"]
    if kind in ("value", "numbers") and end > begin:
        changed_bytes = bytearray(tensors)
        if kind == "value":
            place = draw(st.integers(begin, end - 1))
            changed_bytes[place] ^= 1 << draw(st.integers(0, 7))
            what = f"a bit of {name} flipped"
        else:
            pattern = draw(st.sampled_from((b"\xff", b"\0", b"\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\n")))
            changed_bytes[begin:end] = (pattern * (end - begin))[: end - begin]
            what = f"{name} filled with {pattern!r}"
        must = name in deciding and bytes(changed_bytes) != tensors
        return joined(json.dumps(header).encode(), bytes(changed_bytes)), Damage(what=what, must_not_pass=must)
    if kind == "swap" and len(names) > 1:
        other = draw(st.sampled_from([one for one in names if one != name]))
        header[name], header[other] = header[other], header[name]
        return joined(json.dumps(header).encode(), tensors), Damage(
            what=f"{name} and {other} swapped", must_not_pass=True
        )
    if kind == "extra":
        header["surprise"] = {"dtype": "U8", "shape": [4], "data_offsets": [len(tensors), len(tensors) + 4]}
        return joined(json.dumps(header).encode(), tensors + b"none"), Damage(what="a tensor more", must_not_pass=False)
    cut = draw(st.integers(1, max(1, len(tensors))))
    return joined(json.dumps(header).encode(), tensors[:-cut]), Damage(
        what=f"{cut} bytes of tensors cut", must_not_pass=True
    )


def _only_free(data: bytes, changed: bytes, deciding: Sequence[str]) -> bool:
    """True if what decides is the same in both."""
    try:
        (old, old_tensors), (new, new_tensors) = parts_of(data), parts_of(changed)
        return len(data) == len(changed) and all(
            old[name] == new[name]
            and old_tensors[slice(*old[name]["data_offsets"])] == new_tensors[slice(*new[name]["data_offsets"])]
            for name in deciding
        )
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return False


def broken_picture(draw: Draw[Any], data: bytes) -> tuple[bytes, Damage]:
    """A PNG whose bytes or header are damaged; whether it is still a picture is for Pillow to say."""
    kind = draw(st.sampled_from(("bytes", "bytes", "size", "depth", "text", "other format")))
    if kind == "size":
        width = draw(st.sampled_from((0, 1, 2, 96, 8192, 16384, 65535, 1 << 30, (1 << 31) - 1)))
        height = draw(st.sampled_from((0, 1, 2, 64, 8192, 16384, 65535, 1 << 30)))
        changed = _with_header(data, struct.pack(">II", width, height) + data[24:29])
        return changed, Damage(what=f"claims {width}x{height}", must_not_pass=True)
    if kind == "depth":
        depth, colour = draw(st.sampled_from((1, 8, 16, 99))), draw(st.sampled_from((0, 2, 3, 4, 6, 77)))
        changed = _with_header(data, data[16:24] + bytes((depth, colour)) + data[26:29])
        return changed, Damage(what=f"depth {depth}, colour {colour}", must_not_pass=changed != data)
    if kind == "text":
        bomb = b"a\0\0" + zlib.compress(bytes(draw(st.sampled_from((1000, 1 << 26)))))
        chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
        return data[:33] + chunk + data[33:], Damage(what="packed text", must_not_pass=True)
    if kind == "other format":
        head = draw(
            st.sampled_from((b"GIF89a\xff\xff\xff\xff\0\0\0", b"%!PS-Adobe-3.0 EPSF", b"<svg/>", b"II*\0\x08\0\0\0"))
        )
        return head + data[8:], Damage(what=f"begins {head[:6]!r}", must_not_pass=True)
    changed, what = broken_bytes(draw, data)
    return changed, Damage(what=what, must_not_pass=changed != data)


def _with_header(data: bytes, header: bytes) -> bytes:
    chunk = b"IHDR" + header
    return data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
