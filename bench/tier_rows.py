"""Rows of the tables of native's tiers: what each costs, how far it is from fp32, and what the gate says of it."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.rows import GIB, Rows

WORDS: Mapping[str, str] = {
    "official": "official 1.0.0",
    "exact": "exact",
    "other_kernel": "exact, another attention kernel",
    "fast": "fast",
    "fp8": "fp8",
    "fp8x2": "fp8x2",
    "fp8_cast": "exact, weights as the official `fp8_cast` keeps them",
}
LADDER_COLUMNS = (
    *("tier", "step, s", "official's / its", "end to end, s", "peak, GiB"),
    *("error of x0, video", "times official's", "error of x0, audio", "times official's"),
    *("frames PSNR, sound SNR, dB; A/V offset, ms", "limits that hold"),
)
GATE_COLUMNS = ("tier", "verdict", "limits that hold", "worst use of a limit", "PSNR, dB", "SNR, dB", "A/V offset, ms")
WHOLE_COLUMNS = (
    *("tier", "video latent from fp32", "times official's", "audio latent from fp32", "times official's"),
    *("frames from fp32, PSNR dB", "sound from fp32, SNR dB", "frames from official's, PSNR dB"),
    *("sound from official's, SNR dB", "A/V offset, ms"),
)
DEFECTS_COLUMNS = (
    *("tier", "caught", "located", "by outputs alone", "survive", "equivalent", "not reached", "refused", "not judged"),
    "harmless runs stopped",
)
FUSED_COLUMNS = ("operation", "ours, us", "compiled, us", "plain torch, us", "ours, TB/s")
# Tensors of one stream that each operation reads and writes once: `bench/fused.py`.
STREAM_TENSORS: Mapping[str, int] = {
    "norm_modulate": 3,  # the stream is in fp32
    "add_branch": 6,
    "add_branch_two": 7,
    "norm_rotate": 4,  # queries and keys
    "norm_queries": 2,
    "gate_heads": 2,
}


def ladder_rows(
    ladder: dict[str, Any], samples: Sequence[dict[str, Any]], judged: Sequence[dict[str, Any]] = ()
) -> Rows:
    """Each tier of a ladder, with the times of whole runs by turns where there are some of the same case.

    So with the gate's word on a whole run of it: `judged` are files of `bench/tiers.py`, and one of the same case and
    device is taken.

    Times come from one file each, since ratios hold within one run alone; official has the error of the exact tier,
    whose bits are its own.
    """
    runs = [run for one in samples if len(_tiers(one)) > 1 for run in one["runs"] if run["case"] == ladder["case"]]
    by_tier: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_tier.setdefault(run["tier"] if run["runner"] == "native" else run["runner"], []).append(run["times"])
    official = _step_s(by_tier["official"]) if "official" in by_tier else None
    same = (ladder["case"], ladder["environment"]["device_name"])
    before_gate = {
        tier: of
        for one in judged
        if (one["case"], one["environment"].get("device_name")) == same
        for tier, of in one["tiers"].items()
    }
    rows: Rows = []
    for tier, words in WORDS.items():
        times, errors = by_tier.get(tier), ladder["error"].get("exact" if tier == "official" else tier)
        if errors is None:
            continue
        whole = ("-", "-", "-", "-")
        if times:
            step, peak = _step_s(times), max(one["peak_bytes"] for one in times) / GIB
            ratio = "-" if official is None else f"{official / step:.2f}"
            end_to_end = statistics.median(one["end_to_end_s"] for one in times)
            whole = (f"{step:.3f}", ratio, f"{end_to_end:.1f}", f"{peak:.1f}")
        elif tier in ladder["step_s"]:
            alone = statistics.median(ladder["step_s"][tier]) / statistics.median(ladder["step_s"]["exact"])
            whole = (f"{alone:.2f} of exact's", "-", "-", "-")
        rows.append(
            (words, *whole, *_error_cells(errors, ladder["error"]["exact"]), *_gate_cells(before_gate.get(tier)))
        )
    return rows


def _tiers(samples: dict[str, Any]) -> set[str]:
    return {run["tier"] for run in samples["runs"]}


def _step_s(times: Sequence[dict[str, Any]]) -> float:
    return float(statistics.median(step for one in times for step in one["step_s"][1:] or one["step_s"]))


def _error_cells(errors: dict[str, dict[str, float]], own: dict[str, dict[str, float]]) -> tuple[str, ...]:
    cells: list[str] = []
    for modality in ("video", "audio"):
        worst = max(errors[modality].values())
        multiple = max(error / own[modality][step] for step, error in errors[modality].items())
        cells += [f"{worst:.4f}", f"{multiple:.2f}"]
    return tuple(cells)


def _gate_cells(of: dict[str, Any] | None) -> tuple[str, str]:
    if of is None:
        return "-", "-"
    frames, sound, offset = (
        f"{float(of['values'][name]):.1f}" for name in ("frames.psnr_db.min", "audio.snr_db.min", "av.offset_ms.abs")
    )
    return f"{frames}, {sound}; {offset}", f"{of['limits'] - len(of['failed'])} of {of['limits']}"


def gate_rows(document: dict[str, Any]) -> Rows:
    """Each tier before the gate."""
    rows: Rows = []
    for tier, of in document["tiers"].items():
        values = of["values"]
        rows.append(
            (
                tier,
                of["outcome"].replace("_", " "),
                f"{of['limits'] - len(of['failed'])} of {of['limits']}",
                f"{of['worst']['used']:.2f} `{of['worst']['metric']}`",
                f"{float(values['frames.psnr_db.min']):.1f}",
                f"{float(values['audio.snr_db.min']):.1f}",
                f"{float(values['av.offset_ms.abs']):.1f}",
            )
        )
    return rows


def defects_row(score: dict[str, Any]) -> tuple[str, ...]:
    """The score of a tier as `parity mutate --runner native:TIER --out` saved it, its survivors by name.

    Equivalent are those that the oracle takes for none. Not judged are defects of cases that have no limits, or no
    reference, on that device.
    """
    survive = [row["id"] for row in score["rows"] if not row["killed"] and not row["equivalent"]]
    not_judged = [*score.get("without_limits", ()), *score.get("without_reference", ())]
    stopped = [f"`{row['id']}`" for row in score["benign_rows"] if row["killed"]]
    return (
        score["tier"],
        f"{score['killed']} of {score['defects']}",
        f"{score['located']} of {score['killed']}",
        str(score["killed_by_outputs"]),
        ", ".join(f"`{name}`" for name in survive) or "none",
        *(str(len(of)) for of in (score["equivalents"], score["unreached"], score["refused"], not_judged)),
        f"{score['false_alarms']} of {score['benign_runs']}" + (f": {', '.join(stopped)}" if stopped else ""),
    )


def whole_rows(document: dict[str, Any]) -> Rows:
    """Each tier's whole run: how far it ends from fp32 and from the exact tier, whose bits are official's."""
    rows: Rows = []
    for tier, of in document["runs"].items():
        cells: list[str] = []
        for latent in ("video_latent.relative_l2", "audio_latent.relative_l2"):
            error, own = of["fp32"][latent], document["runs"]["exact"]["fp32"][latent]
            cells += [f"{error:.4f}", f"{error / own:.2f}"]
        for held_to in ("fp32", "exact"):
            values = of[held_to]
            cells += [f"{float(values[name]):.1f}" for name in ("frames.psnr_db.mean", "audio.snr_db.min")]
        rows.append((WORDS[tier], *cells, f"{float(of['exact']['av.offset_ms.abs']):.1f}"))
    return rows


def fused_rows(document: dict[str, Any]) -> Rows:
    """Each fused operation: ours, the compiler's, plain torch."""
    rows: Rows = []
    for name, tensors in STREAM_TENSORS.items():
        seconds = document["operations"][name]
        rate = tensors * document["tensor_bytes"] / seconds["kernel_s"] / 1e12
        times = (seconds.get(f"{way}_s") for way in ("kernel", "compiled", "torch"))
        cells = ("failed" if one is None else f"{one * 1e6:.0f}" for one in times)  # the compiler can
        rows.append((f"`{name}`", *cells, f"{rate:.2f}"))
    return rows


def products_rows(document: dict[str, Any]) -> Rows:
    """Each kind of large product: what fp8 adds and saves, and the blocks where each tier takes it."""
    total = sum(error for by_block in document["added"].values() for error in by_block.values())
    rows: Rows = []
    for name, by_block in document["added"].items():
        chosen = (len(of["products"].get(name, [])) for of in document["tiers"].values())
        share = sum(by_block.values()) / total
        rows.append((f"`{name}`", f"{share:.1%}", f"{document['saved_s'][name] * 1e3:.2f}", *map(str, chosen)))
    return rows
