"""Rows of the tables of measurements: of each kind of saved file, what one line says, with its device.

Nothing is measured here: every number comes from a file.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from parity.diff.imported import WITHOUT_LATENTS
from parity.judge.strength import beyond_without

GIB = 1 << 30
Rows = list[tuple[str, ...]]
ENDS = ("video latent", "audio latent", "frames", "waveform")
OLDER = "older"  # code than that of the newest samples of a case
UNORDERED = "cudnn::detail::dgrad_engine"  # adds as its threads come
LEVELS = {
    "outputs": "outputs alone",
    "outputs+drift": "outputs and drift of taps",
    "outputs+drift+isolated": "outputs, drift and isolated errors",
}


def device(document: dict[str, Any]) -> str:
    """The device and its software, in a few words."""
    environment = document["environment"]
    name = environment.get("device_name") or environment.get("cpu", "unknown")
    return f"{name}, driver {environment.get('driver', '-')}, torch {environment.get('torch', '-')}"


def runner_of(run: dict[str, Any]) -> str:
    """A run's runner as it is asked for: NAME, or NAME:TIER, or NAME+DEVICE with a second one."""
    tier = "" if run["tier"] == "exact" else f":{run['tier']}"
    second = run["work"].get("second_device")
    return f"{run['runner']}{tier}" + (f"+{second}" if second else "")


def newest_code(documents: Sequence[dict[str, Any]]) -> dict[str, set[str]]:
    """The code that each case was timed with last, by the dates of files of timing samples: of one day, all of it."""
    last: dict[str, tuple[str, set[str]]] = {}
    for document in documents:
        for case in {run["case"] for run in document["runs"]}:
            date, codes = last.get(case, ("", set()))
            if document["date"] > date:
                codes = set()
            if document["date"] >= date:
                last[case] = (document["date"], codes | {document["code_version"]})
    return {case: codes for case, (_, codes) in last.items()}


def speed_rows(document: dict[str, Any], newest: Mapping[str, set[str]]) -> Rows:
    """Medians over the samples of each case, runner and kind of run; rows of older code than the newest say so."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in document["runs"]:
        tier = run["tier"] + (", two devices" if run["work"].get("second_device") else "")
        kind = (run["case"], run["runner"], tier, run["work"].get("trace", ""))
        groups.setdefault(kind, []).append(run["times"])
    rows: Rows = []
    for key, times in groups.items():

        def middle(values: Sequence[float]) -> str:
            return f"{statistics.median(values):.2f}"

        later = [step for one in times for step in one["step_s"][1:] or one["step_s"]]
        rows.append(
            (
                *key,
                str(len(times)),
                middle([one["end_to_end_s"] for one in times]),
                middle([one["stage_s"].get("load", 0.0) for one in times]),
                middle([one["stage_s"].get("denoising", 0.0) for one in times]),
                f"{statistics.median(later):.3f}",
                f"{max(one['peak_bytes'] for one in times) / GIB:.1f}",
                "newest" if document["code_version"] in newest[key[0]] else OLDER,
                device(document),
            )
        )
    return rows


def speed_lines(documents: Sequence[dict[str, Any]], cases: str) -> Rows:
    """For each case whose id begins so, all runners by turns in one row: seconds a step, and end to end.

    They are of one file, of those of the newest code the one with most runners, then most runs.
    """
    newest = newest_code(documents)
    rows: dict[str, tuple[tuple[int, int], tuple[str, ...]]] = {}
    for document in documents:
        groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for run in document["runs"]:
            groups.setdefault(run["case"], {}).setdefault(runner_of(run), []).append(run["times"])
        for case, runners in groups.items():
            if document["code_version"] not in newest[case] or not case.startswith(cases):
                continue
            said = []
            for runner, times in runners.items():
                step_s = statistics.median(step for one in times for step in one["step_s"][1:] or one["step_s"])
                whole_s = statistics.median(one["end_to_end_s"] for one in times)
                said.append(f"{runner} {step_s:.3f} ({whole_s:.1f}, {len(times)} runs)")
            what = f"seconds a step (end to end), by turns, {case}, {document['environment']['device_name']}"
            size = len(runners), sum(len(times) for times in runners.values())
            if case not in rows or size > rows[case][0]:
                rows[case] = size, (what, "; ".join(said))
    return [row for _, (_, row) in sorted(rows.items())]


def capture_row(document: dict[str, Any]) -> tuple[str, ...]:
    """The cost of recording all taps."""
    step_s = document["median_step_s"]
    return (
        document["case"],
        f"{step_s['without']:.4f}",
        f"{step_s['with']:.4f}",
        f"{document['cost_percent']:+.2f} %",
        f"{document['trace_peak_bytes'] / 2**20:.0f} MiB",
        device(document),
    )


def loading_rows(document: dict[str, Any]) -> Rows:
    """Each part of native loaded by itself, and all of them; what a plain fill of as many bytes would take."""
    parts: dict[str, dict[str, float]] = document["parts"]
    total = {key: sum(part[key] for part in parts.values()) for key in ("bytes", "load_s", "tensors_s")}
    before = {"names and tokenizer, prepared once": "prepare_s", "structures, made and checked": "check_s"}
    rows: Rows = [(name, "-", f"{document[key]:.2f}", "-", "-", device(document)) for name, key in before.items()]
    for name, part in {**parts, "all parts": total}.items():
        filled_s = part["bytes"] / document["fill_bytes_per_s"]
        times = (f"{part[key]:.2f}" for key in ("load_s", "tensors_s"))
        rows.append((name, f"{part['bytes'] / 1e9:.2f}", *times, f"{filled_s:.3f}", device(document)))
    return rows


def sketch_row(document: dict[str, Any]) -> tuple[str, ...]:
    """The speed a sketch reads at."""
    rates = {name: f"{rate / 1e9:.0f}" for name, rate in document["bytes_per_s"].items()}
    read = max(document["bytes_per_s"]["read_sum"], document["bytes_per_s"]["read_amax"])
    return (
        f"{document['bytes'] / 1e6:.0f} MB bf16",
        rates["copy"],
        f"{read / 1e9:.0f}",
        rates["sketch"],
        f"{100 * document['share_of_read']:.0f} %",
        rates["sketch_torch"],
        device(document),
    )


def blocks_row(document: dict[str, Any]) -> tuple[str, ...]:
    """Every block by itself, and what bf16 costs it."""

    def worst(name: str) -> str:
        steps = [step for point in document[name].values() for step in point.values()]
        return f"{max(error for step in steps for error in step.values()):.2g}"

    return (
        document["case"]["id"],
        ", ".join(str(step) for step in document["measured_steps"]),
        str(document["places"]),
        str(document["places_that_differ"]),
        worst("official_to_oracle"),
        worst("native_to_oracle"),
        worst("another_attention_kernel"),
        f"{document['peak_bytes'] / GIB:.1f}",
        device(document),
    )


def run_row(document: dict[str, Any]) -> tuple[str, ...]:
    """The free run held to fp32: what bf16 costs by the end, and who is nearer."""

    def worst(name: str) -> str:
        steps = [step for point in document[name].values() for step in point.values()]
        return f"{max(error for step in steps for error in step.values()):.2g}"

    nearer = document["nearer"]
    return (
        document["case"]["id"],
        worst("official_to_oracle"),
        worst("native_to_oracle"),
        f"{nearer['candidate']} / {nearer['official']} / {nearer['neither']}",
        f"{max(document['peak_bytes'].values()) / GIB:.1f}",
        device(document),
    )


def port_row(document: dict[str, Any]) -> tuple[str, ...]:
    """The place where another port first leaves the official model, and what becomes of it."""
    first: dict[str, Any] = (
        document["roots"][0] if document["roots"] else {"tap": "nowhere", "relative_l2": 0.0, "harmless": 0.0}
    )
    ends = document["ends"]
    return (
        document["case"]["id"],
        document["runner"],
        first["tap"],
        f"{float(first['relative_l2']):.2g} / {float(first['harmless']):.2g}",
        *(f"{float(ends[name]):.2g}" if name in ends else "-" for name in ENDS),
        f"{document['times_s'][document['runner']]:.1f} / {document['times_s']['official']:.1f}",
        f"{document['peak_bytes'][document['runner']] / GIB:.1f}",
        device(document),
    )


def suite_rows(document: dict[str, Any]) -> Rows:
    """The verdict of each comparison."""
    rows: Rows = []
    for line in document["lines"]:
        taps = line["taps"]
        said = "-" if taps is None else f"{taps['compared']} {'bit-identical' if taps['bit_equal'] else 'compared'}"
        alone = line.get("isolated")
        parts = "-" if alone is None else f"{alone['places']}, {alone['differing']} differ"
        other = "; ".join(line["environment_differences"]) or "-"
        rows.append((line["case"], line["what"], said, parts, other, line["outcome"], device(document)))
    return rows


def planted_rows(document: dict[str, Any]) -> Rows:
    """The suite's word on a candidate with a planted defect."""
    rows: Rows = []
    for line in document["lines"]:
        taps, alone = line["taps"], line["isolated"]
        apart = next(row for row in line["verdict"]["rows"] if row["metric"] == "taps.bit_different")
        rows.append(
            (
                line["case"],
                taps["lines"][0].partition(":")[0],
                f"{apart['value']:.0f} of {taps['compared']}",
                f"{alone['differing']} of {alone['places']}",
                alone["origins"][0],
                line["outcome"],
                device(document),
            )
        )
    return rows


def diff_row(document: dict[str, Any]) -> tuple[str, ...]:
    """Two runs: which outputs have equal bits, and which groups of taps drift apart."""
    metrics = document["metrics"]
    equal = "outputs.bit_equal."
    same = [name.removeprefix(equal) for name, value in metrics.items() if name.startswith(equal) and value == 1.0]
    drift = {name.removeprefix("drift."): value for name, value in metrics.items() if name.startswith("drift.")}
    apart = [f"{name} by {float(value):.2g}" for name, value in drift.items() if value != 0.0]
    return (
        document["case"],
        *(f"{document[side]['runner']} {document[side]['reference']}" for side in ("reference", "candidate")),
        ", ".join(same) or "none",
        f"{len(drift)}",
        ", ".join(apart) or "none",
        device({"environment": document["environment_of_candidate"]}),
    )


def vocoder_rows(document: dict[str, Any]) -> Rows:
    """Distances of repeats of one form, and of the two forms; and the unordered kernel, where it was in use."""
    rows: Rows = []
    for setting, found in document["settings"].items():
        unordered = sum(count for name, count in found["kernels_of_both"].items() if UNORDERED in name)
        rows.append(
            (
                document["case"],
                setting,
                *(f"{found[name]:.2g}" for name in ("official_repeats", "native_repeats", "between")),
                *(f"{found[f'{form}_to_float64']:.6f}" for form in ("official", "native")),
                str(unordered),
                device(document),
            )
        )
    return rows


def level_rows(document: dict[str, Any]) -> Rows:
    """Number of defects that each set of levels catches, and of harmless runs that it stops."""
    defects, harmless = document["defects"], document["benign_runs"]
    rows = [("equal bits (the exact tier)", document["kills_by_level"]["bits"], "-")]
    rows += [
        (LEVELS.get(levels, levels), killed, f"{document['false_alarms_by_levels'][levels]} of {harmless}")
        for levels, killed in document["killed_by_levels"].items()
    ]
    return [_caught_row(*row, defects) for row in rows]


def without_latents_row(document: dict[str, Any]) -> tuple[str, ...]:
    """The same of frames and sound alone, which is all that an import of pictures and a WAV file has."""

    def caught(rows: Sequence[dict[str, Any]]) -> int:
        return sum(
            beyond_without(row["metrics"], WITHOUT_LATENTS.without) for row in rows if not row.get("equivalent", False)
        )

    alarms = f"{caught(document['benign_rows'])} of {document['benign_runs']}"
    return _caught_row(
        "frames and sound alone (imported PNG, WAV)", caught(document["rows"]), alarms, document["defects"]
    )


def form_row(document: dict[str, Any]) -> tuple[str, ...]:
    """The same of frames and sound that went through an encoder, on the defects that the case at hand shows."""
    alarms = f"{len(document['false_alarms'])} of {document['benign_runs']}"
    name = f"the same through `{document['form']}`, `{document['limits_of']}` alone"
    return _caught_row(name, document["killed"], alarms, document["defects"])


def _caught_row(name: str, killed: int, alarms: str, defects: int) -> tuple[str, ...]:
    return name, f"{killed} of {defects}", f"{100 * killed / defects:.0f} %", alarms


def metric_rows(document: dict[str, Any]) -> Rows:
    """Number of defects that the metrics of each family catch by themselves, the sharpest family first."""
    families: dict[str, set[str]] = {}
    for row in document["rows"]:
        for metric in () if row["equivalent"] else (*row["metrics"], *row["findings"]):
            families.setdefault(family(metric), set()).add(row["id"])
    ordered = sorted(families.items(), key=lambda item: (-len(item[1]), item[0]))
    defects = document["defects"]
    return [(name, f"{len(ids)} of {defects}", f"{100 * len(ids) / defects:.0f} %") for name, ids in ordered]


def family(metric: str) -> str:
    """The metrics that a metric is counted with: all of `frames`, all drift, and so on; findings are no metrics."""
    head, dot, _ = metric.partition(".")
    return f"{head}.*" if dot else "findings: something missing, extra, NaN or of another shape"


def machine(environment: dict[str, Any]) -> str:
    """The processor, threads and torch of a measurement on a CPU."""
    threads = f"{environment['threads']} thread{'' if str(environment['threads']) == '1' else 's'}"
    return f"{environment['cpu']}, {threads}, torch {environment['torch']}"


def mutation_note(document: dict[str, Any]) -> str:
    """Location, equivalents and the machine, in one line."""
    named = ", ".join(document["equivalents"]) or "none"
    machines = dict.fromkeys(machine(one) for one in document.get("environments", [document["environment"]]))
    return (
        f"{document['located']} of {document['killed']} defects caught are located in the right module; equivalent by "
        f"the oracle: {named}. Case {document['limits_of']}, {document['date']}, {'; '.join(machines)}.\n"
    )


def engine_row(row: dict[str, Any]) -> tuple[str, ...]:
    """One engine; a tap by its name, its distance as relative L2."""
    first = row["first_bits_tap"]
    places = ["none" if first is None else f"`{first}`, {float(row['first_bits_relative_l2']):.2g}"]
    if row["departs"]:
        places.append(f"beyond noise at {', '.join(f'`{tap}`' for tap in row['departs'])}")
    return (
        row["candidate"][0],
        re.sub(r"\((certain|likely): [^)]*\)", r"(\1)", row["identified"]),
        f"{row['taps_equal']} of {row['taps']}",
        "; ".join(places),
        "; ".join(row["causes"]) or "-",
        row["outcome"].replace("_", " ").upper(),
    )
