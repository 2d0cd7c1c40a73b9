"""The cost and behaviour of a small model: sizes, times on either kind of x86 CPU, figures of `forge --check`.

    python bench/tiny.py measure --preset tiny --case tiny_ti2v --name "tiny" --out docs/measurements/tiny/tiny.json
    python bench/tiny.py page docs/measurements/tiny/*.json > docs/tiny.md

Times are CPU seconds of a run on one thread in a process of its own, which a busy machine hardly lengthens: as the CPU
is, and held to AVX2, where bf16 products have no instructions. The same file measures an older checkout: name its root
in PYTHONPATH, and run it there.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

CAPABILITIES = {"as it is": {}, "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}
RUNNERS = ("official", "native")
SIZES = {
    "transformer": (
        *("num_layers", "num_attention_heads", "attention_head_dim", "audio_num_attention_heads"),
        *("audio_attention_head_dim", "connector_num_attention_heads", "connector_attention_head_dim"),
        *("audio_connector_num_attention_heads", "audio_connector_attention_head_dim"),
        *("connector_num_layers", "audio_connector_num_layers"),
    ),
    "gemma": (
        *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
        *("head_dim", "query_pre_attn_scalar"),
    ),
}
HEAD = """# The small models

Made by `python bench/tiny.py page docs/measurements/tiny/*.json`; every number comes from those files.

`tiny` is what `make parity`, `make gate` and the limits run on: the ratios of the released file, so that an engine
which is right for every released file is right for it. `odd` has none of these ratios and is what the bit tests run on.
What `tiny` was before stands beside them, measured by the same program.
"""


def main() -> None:
    """Measure, or print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    measure = verbs.add_parser("measure")
    for name in ("preset", "case", "name", "out"):
        measure.add_argument(f"--{name}", required=True)
    measure.set_defaults(call=lambda given: measured(given.preset, given.case, given.name, Path(given.out)))
    page_of = verbs.add_parser("page")
    page_of.add_argument("files", nargs="+", type=Path)
    page_of.set_defaults(call=lambda given: print(page([json.loads(path.read_text()) for path in given.files]), end=""))
    once = verbs.add_parser("once")  # what `measure` calls in a process of its own
    for name in ("runner", "weights", "case"):
        once.add_argument(f"--{name}", required=True)
    once.set_defaults(call=lambda given: print(json.dumps(run_once(given.runner, given.weights, given.case))))
    given = parser.parse_args()
    given.call(given)


def measured(preset: str, case: str, name: str, out: Path) -> None:
    """Forge a preset, run a case on it under both capabilities, and save what came of it."""
    from parity.runs.environment import fingerprint
    from parity.trace.atomic import write_bytes_atomic
    from runners.forge.check import check_weights
    from runners.forge.make import forge
    from runners.weights import WeightsFolder

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        weights = WeightsFolder(forge(preset, 0, Path(scratch) / "weights"))
        files = [*Path(scratch).rglob("*.safetensors")]
        text = weights.gemma_config["text_config"]
        document = {
            "name": name,
            "case": case,
            "environment": fingerprint(torch.device("cpu")),
            "machine": platform.machine(),
            "sizes": {
                **{key: weights.config["transformer"].get(key) for key in SIZES["transformer"]},
                **{f"gemma.{key}": text[key] for key in SIZES["gemma"]},
                "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
                "parameters in millions": round(_parameters(weights) / 1e6, 2),
            },
            "times_s": {
                capability: {runner: _times(runner, weights.folder, case, more) for runner in RUNNERS}
                for capability, more in CAPABILITIES.items()
            },
            "check": [
                {"name": one.name, "value": one.value, "low": one.low, "high": one.high, "holds": one.holds}
                for one in check_weights(weights, torch.device("cpu"))
            ],
        }
    write_bytes_atomic(out, (json.dumps(document, indent=1) + "\n").encode())


def _parameters(weights: Any) -> int:
    shapes = [*weights.model.shapes.values(), *weights.gemma.shapes.values()]
    return sum(torch.Size(shape).numel() for shape in shapes)


def _times(runner: str, weights: Path, case: str, variables: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, __file__, "once", "--runner", runner, "--weights", str(weights), "--case", case]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_once(runner: str, weights: str, case: str) -> dict[str, float]:
    """CPU seconds of each stage of one run, and of all."""
    import time

    time.perf_counter = time.process_time  # by which `runners.clock` measures

    from parity.runs.golden import find_case
    from runners.catalogue import open_runner
    from runners.clock import Quiet
    from runners.protocol import RunOptions
    from runners.weights import WeightsFolder

    torch.set_num_threads(1)
    start_s = time.perf_counter()
    with open_runner(runner, WeightsFolder(Path(weights)), RunOptions(device=torch.device("cpu"))) as entered:
        outcome = entered.run(find_case(case), Quiet())
    return {**outcome.stage_s, "end_to_end": time.perf_counter() - start_s}


def page(documents: list[dict[str, Any]]) -> str:
    """The page of all measured models, those given first on the left."""
    names = [document["name"] for document in documents]
    parts = [
        HEAD,
        _table("Sizes", names, [(key, [_said(d["sizes"].get(key)) for d in documents]) for key in _keys(documents)]),
    ]
    for capability in CAPABILITIES:
        stages = [*documents[0]["times_s"][capability]["native"]]
        rows = [
            (
                f"{runner}: {stage.replace('_', ' ')}",
                [f"{d['times_s'][capability][runner][stage]:.2f}" for d in documents],
            )
            for runner in RUNNERS
            for stage in stages
        ]
        parts.append(_table(f"CPU seconds on one thread, {_capability(documents[0], capability)}", names, rows))
    rows = [
        (f"{one['name']}, {one['low']:g} to {one['high']:g}", [_figure(d["check"][row]) for d in documents])
        for row, one in enumerate(documents[0]["check"])
    ]
    parts.append(_table("`parity forge --check`", names, rows))
    environment = documents[0]["environment"]
    cases = "; ".join(f"{d['name']}: {d['case']}" for d in documents)
    parts.append(f"{environment['cpu']}, {environment['cores']} cores, torch {environment['torch']}. Cases: {cases}.\n")
    return "\n".join(parts)


def _keys(documents: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for document in documents for key in document["sizes"]))


def _said(value: Any) -> str:
    return "-" if value is None else str(value)


def _figure(one: dict[str, Any]) -> str:
    return f"{one['value']:.3g}" + ("" if one["holds"] else " (beyond)")


def _capability(document: dict[str, Any], name: str) -> str:
    own = document["environment"]["cpu_capability"]
    return f"as the CPU is ({own})" if name == "as it is" else "held to AVX2"


def _table(title: str, names: list[str], rows: list[tuple[str, list[str]]]) -> str:
    head = f"| | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}"
    return f"**{title}**\n\n{head}\n" + "\n".join(f"| {key} | {' | '.join(cells)} |" for key, cells in rows) + "\n"


if __name__ == "__main__":
    main()
