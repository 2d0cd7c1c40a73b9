"""The coverage of the tiny cases, printed as Markdown: values of fields, branches of native, known blind spots.

    python bench/case_coverage.py --weights build/weights/tiny [--json]

Runs every tiny case natively on the CPU, those of 1.0.0 in the fast tier too and one in every tier, with coverage.py
listening to runners/ltx23. A prompt goes through Gemma once, and decoded is one clip of each release, and each that is
of several tiles: else decoding goes the same way. What no case shows stands in case_coverage.toml
with its reason. `make coverage` writes docs/coverage.md; tests/bench/test_case_coverage.py fails where something is
neither shown nor explained, and where an explanation is stale.

Not measured: the sides of conditional expressions and of `and` and `or`, which coverage.py does not tell apart.
"""

import argparse
import ast
import json
import sys
import tempfile
import tomllib
import typing
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import coverage
import msgspec

from runners.case import NOT_IN_FILES, Case, load_case

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "runners/ltx23"
SHOWN_CHARACTERS = 60  # of a value in a table
Rows = list[tuple[str, ...]]
# Refusals are left to the unit tests: a case is a request that can be run. Protocols have no code.
LEFT_OUT = (r"^\s*raise\b", r"^class .*\(Protocol\)")
NEVER = "never runs"
KERNELS = "*_triton.py"  # run on a GPU alone, whose tests try each


@dataclass(frozen=True, kw_only=True)
class FileCoverage:
    """Branches of one file: how many it has, refusals left out, and the places where no case came."""

    branches: int
    run: int
    missed: tuple[str, ...]


def known() -> dict[str, Any]:
    """The declarations of case_coverage.toml: cases, fields, branches and blind spots."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def tiny_cases() -> list[Case]:
    """Every committed case of the tiny preset, of all releases."""
    return [load_case(path) for path in sorted((ROOT / "golden").glob("*tiny_*/case.toml"))]


def schema_fields(kind: Any = Case, prefix: str = "") -> Iterator[str]:
    """Dotted names of what a case file can say; a field that has but one choice is none."""
    for name, of in typing.get_type_hints(kind).items():
        elements = [part for part in (of, *typing.get_args(of)) if isinstance(part, type)]
        tables = [part for part in elements if issubclass(part, msgspec.Struct)]
        if tables:
            listed = of is not tables[0]
            if listed:
                yield f"{prefix}{name}[]"  # how many there are
            yield from schema_fields(tables[0], f"{prefix}{name}{'[]' if listed else ''}.")
        elif not ((typing.get_origin(of) is typing.Literal and len(typing.get_args(of)) == 1) or name in NOT_IN_FILES):
            yield f"{prefix}{name}"


def values(cases: list[Case], field: str) -> set[str]:
    """The different values, as JSON, that a field has over the cases."""
    found: list[Any] = [msgspec.to_builtins(case) for case in cases]  # with what a case may leave out
    for name in field.split("."):
        found = [value[name.removesuffix("[]")] for value in found]
        if name.endswith("[]"):
            found = (
                [len(value) for value in found] if field.endswith("[]") else [each for value in found for each in value]
            )
    return {json.dumps(value, ensure_ascii=False) for value in found}


def measure(cases: list[Case], weights_folder: Path) -> dict[str, FileCoverage]:
    """Run the cases natively, and count branches of each file of the model."""
    listener = coverage.Coverage(branch=True, data_file=None, config_file=False, source=[str(MODEL)], omit=[KERNELS])
    for pattern in LEFT_OUT:
        listener.exclude(pattern)
    with listener.collect():  # first of all, so that imports of the model are heard
        _run_all(cases, weights_folder)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.json"
        listener.json_report(outfile=str(path))
        report = json.loads(path.read_text(encoding="utf-8"))
    names = {path: Path(path).absolute().relative_to(MODEL).as_posix() for path in sorted(report["files"])}
    return {name: _measured(name, report["files"][path]) for path, name in names.items()}


def _run_all(cases: list[Case], weights_folder: Path) -> None:
    import torch
    from transformers import Gemma3TextModel

    from runners.clock import Quiet
    from runners.native.runner import NativeRunner
    from runners.protocol import TIERS, RunOptions
    from runners.tap import listening
    from runners.weights import WeightsFolder

    torch.set_num_threads(1)  # which branch runs does not depend on it, and a busy machine is no hindrance
    weights, cpu = WeightsFolder(weights_folder), torch.device("cpu")
    decoded: set[str] = set()  # releases
    with patch.object(Gemma3TextModel, "forward", _once_a_prompt(Gemma3TextModel.forward)):
        for number, case in enumerate(cases):
            heard = case.reference == "1.0.0"  # taps, which others run without
            tiers = TIERS if number == 0 else ("exact", "fast") if heard else ("exact",)
            ways = [RunOptions(device=cpu, tier=tier) for tier in tiers]
            if number == 0:
                ways.append(RunOptions(device=cpu, second_device=cpu))
            for options in ways:
                print(f"{case.id} in the {options.tier} tier", file=sys.stderr, flush=True)
                whole = case.reference not in decoded or (options is ways[0] and _of_several_tiles(case))
                decoded.add(case.reference)
                progress = Quiet() if whole else _UntilDecoding()
                taps = listening(_nothing) if heard and options.second_device is None else nullcontext()
                with suppress(_DecodingError), NativeRunner(weights, options) as runner, taps:
                    runner.run(case, progress)


def _of_several_tiles(case: Case) -> bool:
    from runners.ltx23.video_tiling import AUTO_TILING

    request, frames, side = case.request, AUTO_TILING.tile_frames, AUTO_TILING.tile_px
    assert frames is not None and side is not None
    return request.num_frames > frames or max(request.height, request.width) > side


def _once_a_prompt(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Gemma, whose code is none of the model's: what it made of the same tokens before."""
    made: dict[tuple[tuple[int, ...], bytes], Any] = {}

    def remembered(model: Any, *, input_ids: Any, **options: Any) -> Any:
        tokens = tuple(input_ids.shape), input_ids.numpy().tobytes()  # which say their padding
        if tokens not in made:
            made[tokens] = forward(model, input_ids=input_ids, **options)
        return made[tokens]

    return remembered


class _DecodingError(Exception):
    """Denoising is over."""


class _UntilDecoding:
    """Progress of a run that ends when decoding begins."""

    def stage(self, name: str) -> None:
        """End where denoising is over. Raises: _DecodingError."""
        if name == "video_decoding":
            raise _DecodingError

    def step(self, index: int, count: int) -> None:
        """Ignore it."""


def _nothing(name: str, tensor: Any) -> None:
    """Hear a tap and keep nothing of it."""


def _measured(name: str, file: dict[str, Any]) -> FileCoverage:
    source = (MODEL / name).read_text(encoding="utf-8")
    lines, bodies = source.splitlines(), bodies_of(source)
    missed: list[str] = []
    for function, region in file["functions"].items():
        if not function or not region["summary"]["num_statements"]:
            continue
        if not region["executed_lines"]:
            missed.append(f"{name} {function}: {NEVER}")
            continue
        ran = set(region["executed_lines"])
        for line, to in region["missing_branches"]:
            if line in ran:  # else it lies behind a branch that is named itself
                side = "true" if to == bodies.get(line) else "false"
                missed.append(f"{name} {function}: {lines[line - 1].split('  #')[0].strip()} {side}")
    summary = file["summary"]
    return FileCoverage(
        branches=summary["num_branches"], run=summary["covered_branches"], missed=tuple(dict.fromkeys(missed))
    )


def bodies_of(source: str) -> dict[int, int]:
    """First line of what each `if` or loop guards, by the line it stands on."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If | ast.For | ast.While)]
    return {node.lineno: node.body[0].lineno for node in nodes}


def table(title: str, columns: tuple[str, ...], rows: Rows) -> str:
    """A heading and a Markdown table."""
    cells = [columns, ("---",) * len(columns), *rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([f"## {title}", "", *lines, ""])


def cases_table(cases: list[Case]) -> str:
    """The purpose of each case."""
    sees = {entry["id"]: entry["sees"] for entry in known()["case"]}
    rows: Rows = [
        (
            f"`{case.id}`",
            case.reference,
            f"{case.request.width}x{case.request.height}, {case.request.num_frames} frames",
            f"{case.request.frame_rate:g}",
            str(case.request.num_inference_steps),
            str(len(case.request.images)),
            sees.get(case.id, "?"),
        )
        for case in cases
    ]
    return table("Cases", ("case", "release", "shape", "fps", "steps", "pictures", "what it alone sees"), rows)


def fields_table(cases: list[Case]) -> str:
    """Values of each field over the cases, shortest first."""
    reasons = {entry["name"]: entry["reason"] for entry in known()["field"]}
    rows: Rows = []
    for field in schema_fields():
        found = sorted(values(cases, field), key=lambda value: (len(value), value))
        shown = ", ".join(
            value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}…" for value in found
        )
        rows.append((f"`{field}`", str(len(found)), reasons.get(field, shown)))
    return table("Fields of a request", ("field", "values", "which"), rows)


def blind_spots_table() -> str:
    """The blind spots that changed no bit of the first tiny cases, and the defect that shows each is seen now."""
    rows: Rows = [(entry["what"], f"`{entry['case']}`", f"`{entry['defect']}`") for entry in known()["blind_spot"]]
    return table("Blind spots of the first cases", ("what", "case that sees it", "defect that proves it"), rows)


def unreached_table() -> str:
    """Branches that no case runs, and why."""
    rows: Rows = [
        (entry["reason"], "<br>".join(f"`{place}`" for place in entry["places"])) for entry in known()["branch"]
    ]
    return table("Branches that no case runs", ("why", "where"), rows)


def branches_table(found: dict[str, FileCoverage]) -> str:
    """Branches of each file: run, and explained below."""
    rows: Rows = [
        (f"`{name}`", str(file.branches), str(file.run), str(len(file.missed)))
        for name, file in found.items()
        if file.branches
    ]
    rows.append(("all", *(str(sum(int(row[column]) for row in rows)) for column in (1, 2, 3))))
    return table("Branches of `runners/ltx23`", ("file", "branches", "run", "places listed below"), rows)


def main() -> None:
    """Measure, then print everything as Markdown, or the branches as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the forged tiny preset")
    parser.add_argument("--json", action="store_true", help="branches only, for the test")
    arguments = parser.parse_args()
    cases = tiny_cases()
    found = measure(cases, arguments.weights)
    if arguments.json:
        print(msgspec.json.encode(found).decode())
        return
    print(known()["introduction"])
    print(cases_table(cases))
    print(fields_table(cases))
    print(blind_spots_table())
    print(branches_table(found))
    print(unreached_table(), end="")


if __name__ == "__main__":
    main()
