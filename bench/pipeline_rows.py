"""Rows of the table of pipelines: what is shown of each in each official release, and where.

Nothing is measured here. Equal bits on a CPU are of the files of `bench/pipelines.py`, on a GPU of the suites of `make
parity-gpu`, defects of `parity mutate --out`, goldens and limits of `golden/` and `thresholds/`. What nothing shows is
a dash.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from bench.pipelines import CASES, KIND, WITH_FP8_CAST, WITH_FP8_SCALED, WITH_LORA
from bench.rows import Rows
from parity.defects.variant import FP8_CAST, LORA
from parity.judge.registry import load_registry
from parity.runs.golden_folder import GOLDEN_FILE
from parity.runs.places import CASE_FILE, limits_path, shipped_root
from runners.case import load_case
from runners.releases import RELEASES

COLUMNS: Final = ("pipeline", "release", "official ran on", "equal bits, CPU", "GPU", "goldens", "limits", "caught")
NAMES: Final = (*CASES, WITH_LORA, WITH_FP8_CAST, WITH_FP8_SCALED)
VARIANTS: Final[Mapping[str, str]] = {LORA.name: WITH_LORA, FP8_CAST.name: WITH_FP8_CAST}
COMPARISON: Final = "native against official"
NOTHING: Final = "-"
Key = tuple[str, str]  # pipeline and release


@dataclass(frozen=True, kw_only=True)
class PipelineComparison:
    """Native beside the official run of one request, both made there and then."""

    key: Key
    device: str
    v2a: bool
    taps: int
    taps_equal: int


@dataclass(frozen=True, kw_only=True)
class KnownCase:
    """A case under golden/, as far as the table asks."""

    key: Key
    v2a: bool
    tiny: bool
    golden: bool


def known_cases(root: Path) -> dict[str, KnownCase]:
    """Every case that ships, by its id."""
    found = {}
    for path in sorted((root / "golden").glob(f"*/{CASE_FILE}")):
        case = load_case(path)
        found[case.id] = KnownCase(
            key=(WITH_LORA if case.loras else case.pipeline, case.reference),
            v2a=not case.switches.skip_v2a_cross_attn_for_video_gt,
            tiny="tiny_" in case.id,
            golden=(path.parent / GOLDEN_FILE).is_file(),
        )
    return found


def pipeline_rows(kinds: Mapping[str, Sequence[dict[str, Any]]], root: Path | None = None) -> Rows:
    """A row for each pipeline, whose cells have a line for each release of which something is shown."""
    rows: Rows = []
    for name, of_name in groupby(release_rows(kinds, root), key=lambda row: row[0]):
        rows.append((name, *("<br>".join(column) for column in list(zip(*of_name, strict=True))[1:])))
    return rows


def release_rows(kinds: Mapping[str, Sequence[dict[str, Any]]], root: Path | None = None) -> Rows:
    """A row for each pipeline and release of which something is shown."""
    root = root or shipped_root()
    cases = known_cases(root)
    here = list(_on_cpu(kinds.get(KIND, ())))
    there = list(_on_gpu(kinds.get("suite", ()), cases))
    goldens = Counter((case.key, "tiny" if case.tiny else "full") for case in cases.values() if case.golden)
    limits = Counter(
        (cases[table.case].key, table.device.removeprefix("NVIDIA ").partition(" ")[0] or "CPU")
        for table in load_registry(limits_path(root)).cases
    )
    caught = _caught(kinds.get("mutation", ()), cases)
    rows: Rows = []
    for key in ((name, release) for name in NAMES for release in RELEASES):
        on_cpu = [one for one in here if one.key == key]
        on_gpu = [one for one in there if one.key == key]
        devices = dict.fromkeys(one.device for one in (*on_cpu, *on_gpu))
        shown = (
            ", ".join(devices) or NOTHING,
            _bits(on_cpu),
            _bits(on_gpu),
            _counts(goldens, key),
            _counts(limits, key),
            caught.get(key, NOTHING),
        )
        if any(cell != NOTHING for cell in shown):
            rows.append((*key, *shown))
    return rows


def _on_cpu(documents: Iterable[dict[str, Any]]) -> Iterable[PipelineComparison]:
    for document in documents:
        for line in document["lines"]:
            yield PipelineComparison(
                key=(line["pipeline"], document["release"]),
                device="CPU",
                v2a=line["v2a"],
                taps=line["taps"],
                taps_equal=line["taps_equal"] if line["outputs_equal"] else 0,
            )


def _on_gpu(documents: Iterable[dict[str, Any]], cases: Mapping[str, KnownCase]) -> Iterable[PipelineComparison]:
    """Of each case, its last suite on each GPU."""
    last: dict[tuple[str, str], PipelineComparison] = {}
    for document in documents:
        device = document["environment"].get("device_name")
        for line in document["lines"]:
            if device is None or line["what"] != COMPARISON or line["case"] not in cases or line["taps"] is None:
                continue
            case, taps = cases[line["case"]], line["taps"]
            name = device.removeprefix("NVIDIA ").partition(" ")[0]
            last[line["case"], name] = PipelineComparison(
                key=case.key,
                device=name,
                v2a=case.v2a,
                taps=taps["compared"],
                taps_equal=taps["compared"] if taps["bit_equal"] and line["exit_code"] == 0 else 0,
            )
    return last.values()


def _bits(found: Sequence[PipelineComparison]) -> str:
    """Taps equal with V2A and without; how many of all, if not all are."""
    if not found:
        return NOTHING
    said = []
    for v2a in (True, False):
        of = [one for one in found if one.v2a is v2a]
        equal, taps = sum(one.taps_equal for one in of), sum(one.taps for one in of)
        said.append(NOTHING if not of else f"{taps}" if equal == taps else f"{equal} of {taps}")
    return " + ".join(said)


def _counts(counts: Counter[tuple[Key, str]], key: Key) -> str:
    return ", ".join(f"{count} {kind}" for (of, kind), count in sorted(counts.items()) if of == key) or NOTHING


def _caught(documents: Iterable[dict[str, Any]], cases: Mapping[str, KnownCase]) -> dict[Key, str]:
    """Defects caught by limits, of those tried in a pipeline and release, and harmless runs if any were stopped."""
    killed: dict[Key, dict[str, bool]] = {}  # by a defect's id: of several files, the last says
    stopped: dict[Key, str] = {}
    for document in documents:
        at_hand = cases[document["limits_of"]].key
        if document["false_alarms"]:
            stopped[at_hand] = f", {document['false_alarms']} of {document['benign_runs']} harmless runs stopped"
        for row in document["rows"]:
            key = cases[row["case"]].key if row["case"] in cases else at_hand
            if row["case"] in VARIANTS:
                key = VARIANTS[row["case"]], at_hand[1]
            if not row["equivalent"]:
                killed.setdefault(key, {})[row["id"]] = row["killed"]
    return {key: f"{sum(of.values())} of {len(of)}{stopped.get(key, '')}" for key, of in killed.items()}
