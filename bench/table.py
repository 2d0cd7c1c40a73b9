"""Tables of measurements, printed as Markdown from the files that `bench/gpu.py`, `bench/floors.py`,
`bench/loading.py`, `parity mutate --out`, `parity diff --json` and the suite saved.

    python -m bench.table docs/measurements/*.json [--into docs/measurements.md] [--into README.md]

Nothing is measured here: every number comes from a file, with the device it was measured on. `--into` also replaces
what stands between the markers of a document, `<!-- measured: NAME -->` up to `<!-- end -->`; names: `blocks_of`.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.fleet_rows import FLEET_COLUMNS, PAPER_COLUMNS, fleet_machine, fleet_rows, paper_rows
from bench.pipeline_rows import COLUMNS as PIPELINE_COLUMNS
from bench.pipeline_rows import pipeline_rows
from bench.rows import (
    ENDS,
    Rows,
    blocks_row,
    capture_row,
    device,
    diff_row,
    engine_row,
    form_row,
    level_rows,
    loading_rows,
    machine,
    metric_rows,
    mutation_note,
    newest_code,
    planted_rows,
    port_row,
    run_row,
    sketch_row,
    speed_lines,
    speed_rows,
    suite_rows,
    vocoder_rows,
    without_latents_row,
)
from bench.scores import MADE_FOR_COLUMNS, joined_scores, made_for_one_case, made_for_row
from bench.tier_rows import (
    DEFECTS_COLUMNS,
    FUSED_COLUMNS,
    GATE_COLUMNS,
    LADDER_COLUMNS,
    WHOLE_COLUMNS,
    defects_row,
    fused_rows,
    gate_rows,
    ladder_rows,
    products_rows,
    whole_rows,
)
from parity.trace.atomic import write_bytes_atomic

Documents = dict[str, list[dict[str, Any]]]  # by kind
BLOCK = re.compile(r"(?<=<!-- measured: )(?P<name>[a-z ]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
FULL_SIZE_ON = "NVIDIA H100 80GB HBM3"  # the device of the README's rows
FULL_SIZE_CASE = "ltx_2.3_one_stage_ti2v"  # the official default request
HOW_PLANTED = "[1 % too large](full-size.md#a-defect-at-full-size)"  # from docs/
FULL_SIZE_GOLDEN = Path(__file__).parents[1] / "golden" / FULL_SIZE_CASE / "golden.json"
MUTATION_OF_TIER = "mutation_of_tier"
PLANTED = "planted_defect"  # in the name of a file: the native model was made wrong on purpose


def table(title: str, columns: Sequence[str], rows: Rows) -> str:
    """One Markdown table; nothing if there is no row."""
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def full_size_rows(kinds: Documents) -> Rows:
    """The measurements at full size on the README's device, in a few rows: bits, parts, a defect, seconds."""

    def here(kind: str) -> list[dict[str, Any]]:
        return [one for one in kinds.get(kind, []) if one["environment"].get("device_name") == FULL_SIZE_ON]

    lines = [line for one in here("suite") for line in one["lines"] if line["what"] == "native against official"]
    releases: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        named = re.match(r"release_([0-9.]+)_", line["case"])
        releases.setdefault(named[1] if named else "1.0.0", []).append(line)
    rows: Rows = []
    for release, of in sorted(releases.items()):
        equal = sum(line["taps"]["bit_equal"] for line in of)
        taps = sum(line["taps"]["compared"] for line in of)
        rows.append((f"native against official {release}", f"{equal} of {len(of)} cases bit-identical, {taps} taps"))
    for line in lines:
        if alone := line.get("isolated"):
            found = f"{alone['differing']} of {alone['places']} places differ"
            rows.append(("every stage and block alone, fed the official inputs", found))
    for one in here(PLANTED):
        for line in one["lines"]:
            found = f"{line['outcome']}, first diverges at {line['taps']['roots'][0]['where']}"
            rows.append((f"native with one feed-forward {HOW_PLANTED}", found))
    return [*rows, *speed_lines(kinds.get("samples", []), FULL_SIZE_CASE)]


def full_size_table(kinds: Documents) -> str:
    """The README's rows, with the device in the caption."""
    devices = {device(one) for one in kinds.get("suite", []) if one["environment"].get("device_name") == FULL_SIZE_ON}
    return table(f"Full size on one {', '.join(sorted(devices))}", ("what", "measured"), full_size_rows(kinds))


def caught_table(kinds: Documents) -> str:
    """Number of known defects that each set of levels catches, and where."""
    columns = ("judged by", "known defects caught", "rate", "harmless runs stopped")
    title = "Known defects caught, by what a candidate is judged by"
    parts = []
    for one in whole_scores(kinds):
        forms = [form_row(form) for form in kinds.get("form", []) if form["limits_of"] == one["limits_of"]]
        parts += [table(title, columns, [*level_rows(one), without_latents_row(one), *forms]), mutation_note(one)]
    return "\n".join(parts)


def whole_scores(kinds: Documents) -> list[dict[str, Any]]:
    """The scores of cases that the catalogue as such is tried with."""
    return [one for one in joined_scores(kinds.get("mutation", [])) if not made_for_one_case(one)]


def made_for_table(kinds: Documents) -> str:
    """The scores of cases, of whichever release, that some defects were made for, a row each."""
    scores = [one for one in joined_scores(kinds.get("mutation", [])) if made_for_one_case(one)]
    machines = ", ".join(dict.fromkeys(machine(one["environment"]) for one in scores))
    rows = [made_for_row(one) for one in scores]
    return table(
        f"Defects on the cases that they were made for, and on those of another release, {machines}",
        MADE_FOR_COLUMNS,
        rows,
    )


def engines_table(kinds: Documents, kind: str = "engines") -> str:
    """Every engine beside the release that it follows."""
    columns = ("engine", "follows", "taps equal", "first divergence", "look at", "verdict")
    return "\n".join(
        table(
            f"Engines held to the release they follow, {case}tiny model, {machine(one['environment'])}",
            columns,
            [engine_row(row) for row in one["rows"]],
        )
        for one in kinds.get(kind, [])
        for changes in ["".join(f" with `{pair}`" for pair in one.get("set", ()))]
        for case in ["" if kind == "engines" else f"`{one['rows'][0]['case']}`{changes}, "]
    )


def ladder_table(kinds: Documents) -> str:
    """The ladder of tiers."""
    return "\n".join(
        table(
            f"Native's tiers: whole runs, and the guided x0 of a step held to the same step in fp32 (worst of steps "
            f"{', '.join(one['error']['exact']['video'])}); frames, sound and limits beside the golden, which an H100 "
            f"made; {one['case']} on one {device(one)}",
            LADDER_COLUMNS,
            ladder_rows(one, kinds.get("samples", []), kinds.get("tiers", [])),
        )
        for one in kinds.get("ladder", [])
    )


def whole_table(kinds: Documents) -> str:
    """Whole runs of the tiers: where they end."""
    return "\n".join(
        table(
            f"Whole runs of {one['case']}, every step a tier's own, held to the run in fp32 and to the official one, "
            f"{device(one)}",
            WHOLE_COLUMNS,
            whole_rows(one),
        )
        for one in kinds.get("whole_runs", [])
    )


def tiers_table(kinds: Documents) -> str:
    """The gate's verdict on each tier and on defects in it, the products in fp8, and the fused operations."""
    parts = [
        table(
            f"{one['case']}, judged by limits, "
            + (device(one) if one["environment"]["device"] == "cuda" else machine(one["environment"])),
            GATE_COLUMNS,
            gate_rows(one),
        )
        for one in kinds.get("tiers", [])
    ]
    parts += [
        table(
            f"Known defects put into a faster tier, {one['limits_of']}, "
            + (device(one) if one["environment"]["device"] == "cuda" else machine(one["environment"])),
            DEFECTS_COLUMNS,
            [defects_row(one)],
        )
        for one in kinds.get(MUTATION_OF_TIER, [])
    ]
    for one in kinds.get("fp8_layers", []):
        columns = (
            "product",
            "share of what fp8 adds",
            "saves in a block, ms",
            *(f"blocks in {t}" for t in one["tiers"]),
        )
        parts.append(table(f"Products in fp8, {one['case']}, {device(one)}", columns, products_rows(one)))
    parts += [
        table(f"Fused operations on 4 x 6144 tokens, {device(one)}", FUSED_COLUMNS, fused_rows(one))
        for one in kinds.get("fused", [])
    ]
    return "\n".join(part for part in parts if part)


def fleet_table(kinds: Documents) -> str:
    """The cost of a row of a matrix beside its engines, and of ten thousand at full size."""
    parts = [
        table(
            f"Rows of an engine that takes no time, {one['case']}, {fleet_machine(one)}", FLEET_COLUMNS, fleet_rows(one)
        )
        for one in kinds.get("fleet", [])
    ]
    for one in (found for found in kinds.get("fleet", []) if found["executor"] == "ray"):
        rows = paper_rows(one, kinds.get("samples", []), json.loads(FULL_SIZE_GOLDEN.read_text(encoding="utf-8")))
        parts.append(table("Ten thousand rows at full size, on paper", PAPER_COLUMNS, rows))
    return "\n".join(parts)


def pipelines_table(kinds: Documents) -> str:
    """Each pipeline in each official release, and what is shown of it."""
    machines = sorted({machine(one["environment"]) for one in kinds.get("pipelines", [])})
    title = f"Pipelines; equal bits: taps with V2A + without, and all outputs; CPU: {', '.join(machines)}"
    return table(title, PIPELINE_COLUMNS, pipeline_rows(kinds)) if machines else ""


def every_table(kinds: Documents) -> str:
    """All tables, one after another; a kind that no file is of has none."""
    parts = [
        engines_table(kinds),
        engines_table(kinds, "engines_of_pipelines"),
        table(
            "Parity at full size",
            ("case", "comparison", "taps", "parts alone", "environment differs", "verdict", "device"),
            [row for document in kinds.get("suite", []) for row in suite_rows(document)],
        ),
        table(
            "A defect planted in one block of native, and what the suite says",
            ("case", "it says", "taps that differ", "parts alone that differ", "first of them", "verdict", "device"),
            [row for document in kinds.get(PLANTED, []) for row in planted_rows(document)],
        ),
        table(
            "Against another official release",
            ("case", "reference", "candidate", "equal bits", "groups of taps", "of them apart, relative L2", "device"),
            [diff_row(document) for document in kinds.get("diff", [])],
        ),
        table(
            "The float32 vocoder of 1.2.0, several times: largest difference of a sample, relative L2 from float64",
            (
                *("case", "cuDNN", "official repeated", "native repeated", "native and official"),
                *("official from float64", "native from float64", "convolutions by `dgrad_engine`", "device"),
            ),
            [row for document in kinds.get("vocoder", []) for row in vocoder_rows(document)],
        ),
        table(
            "Every stage and block alone, fed the official inputs: worst relative L2, peak in GiB",
            (
                *(
                    "case",
                    "steps",
                    "places",
                    "differ",
                    "official to fp32",
                    "native to fp32",
                    "another attention kernel",
                ),
                *("peak", "device"),
            ),
            [blocks_row(document) for document in kinds.get("floors_blocks", [])],
        ),
        table(
            "The free run against the official model in fp32: worst relative L2 of a block, peak in GiB",
            ("case", "official", "native", "taps nearer: native / official / neither", "peak", "device"),
            [run_row(document) for document in kinds.get("floors_run", [])],
        ),
        table(
            "Another port against the official run: where it first diverges, relative L2 by the end, seconds, GiB",
            (
                *("case", "runner", "first diverges at", "by / harmless", *ENDS, "time / official's", "peak"),
                "device",
            ),
            [port_row(document) for document in kinds.get("floors_port", [])],
        ),
        table(
            "Speed: medians in seconds over runs by turns, peak in GiB",
            (
                *("case", "runner", "tier", "trace", "runs", "end to end", "load", "denoising", "step", "peak"),
                *("code", "device"),
            ),
            [
                row
                for document in kinds.get("samples", [])
                for row in speed_rows(document, newest_code(kinds["samples"]))
            ],
        ),
        table(
            "Cost of recording all taps: median step in seconds",
            ("case", "without", "with", "cost", "device memory", "device"),
            [capture_row(document) for document in kinds.get("capture", [])],
        ),
        table(
            "Loading native with synthetic weights, part by part",
            ("part", "GB", "seconds", "of them making tensors", "a plain fill of them", "device"),
            [row for document in kinds.get("loading", []) for row in loading_rows(document)],
        ),
        table(
            "Sketch of a tap: GB/s",
            ("tensor", "copy", "plain read", "sketch", "share of plain read", "torch form", "device"),
            [sketch_row(document) for document in kinds.get("sketch", [])],
        ),
    ]
    for document in whole_scores(kinds):
        parts.append(caught_table({"mutation": [document], "form": kinds.get("form", [])}))
        parts.append(table("The same, by single kinds of metric", ("metrics", "caught", "rate"), metric_rows(document)))
    parts.append(made_for_table(kinds))
    return "\n".join(part for part in parts if part)


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A document with what stands between its markers replaced. Raises: KeyError for a marker that names no block."""
    return BLOCK.sub(lambda found: f"{found['name']}{found[2]}{blocks[found['name']]}", text)


def read(paths: Sequence[Path]) -> Documents:
    """The documents of some files, in the order given, by kind."""
    kinds: Documents = {}
    for path in paths:
        document = json.loads(path.read_text(encoding="utf-8"))
        suite = PLANTED if PLANTED in path.stem else "suite"  # the suite does not know that a defect was planted
        kind = document.get("kind", suite if "lines" in document else "diff")
        if kind == "mutation" and "tier" in document:  # of a faster tier than exact, which alone the score names
            kind = MUTATION_OF_TIER
        kinds.setdefault(kind, []).append(document)
    return kinds


def blocks_of(kinds: Documents) -> dict[str, str]:
    """The tables that documents may hold, by the name in their markers."""
    return {
        "all": every_table(kinds),
        "full size": full_size_table(kinds),
        "caught": caught_table(kinds),
        "caught on their own cases": made_for_table(kinds),
        "engines": engines_table(kinds),
        "engines of pipelines": engines_table(kinds, "engines_of_pipelines"),
        "ladder": ladder_table(kinds),
        "tiers": tiers_table(kinds),
        "whole runs": whole_table(kinds),
        "fleet": fleet_table(kinds),
        "pipelines": pipelines_table(kinds),
    }


def main(arguments: Sequence[str]) -> None:
    """Print the tables of some files, and put them into documents."""
    parser = argparse.ArgumentParser(description="Print tables of measurements.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", action="append", default=[], type=Path, help="a document with markers")
    given = parser.parse_args(arguments)
    kinds = read(given.files)
    print(every_table(kinds), end="")
    for document in given.into:
        write_bytes_atomic(document, filled(document.read_text(encoding="utf-8"), blocks_of(kinds)).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
