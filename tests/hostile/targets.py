"""Every untrusted document of the honest checkout, how it is damaged, and the verbs that read it."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.hostile.damage import (
    Damage,
    Draw,
    PathOf,
    broken_bytes,
    broken_json,
    broken_picture,
    broken_tensors,
    broken_toml,
)
from tests.hostile.honest import REDUCED, WHOLE, edited

Break = Callable[[Draw[Any], bytes], tuple[bytes, Damage]]
OUTPUTS = ("video_frames", "audio_waveform", "video_latent", "audio_latent")


@dataclass(frozen=True, kw_only=True)
class Call:
    """A verb on the checkout in `{}`, which ends in `honest` where nothing is damaged.

    `judges` says that exit code 0 calls what it read good; `writes` are the folders it may write in.
    """

    arguments: tuple[str, ...]
    honest: int = 0
    judges: bool = False
    writes: tuple[str, ...] = ("out",)

    def line(self, folder: Path) -> list[str]:
        """The command line in a checkout."""
        return [argument.replace("{}", str(folder)) for argument in self.arguments]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A document, how it is damaged, and who reads it. `seal` makes the hashes that vouch for it right again."""

    path: str
    broken: Break
    calls: tuple[Call, ...]
    seal: Callable[[Path, Path], None] | None = None
    weight: int = 1
    kinds_matter: bool = True  # whether anything but a regular file must be refused


def call(*arguments: str, honest: int = 0, judges: bool = False, writes: Sequence[str] = ("out",)) -> Call:
    return Call(arguments=arguments, honest=honest, judges=judges, writes=tuple(writes))


def json_of(*binding: PathOf) -> Break:
    return lambda draw, data: broken_json(draw, data, binding)


def toml_of(*binding: PathOf) -> Break:
    return lambda draw, data: broken_toml(draw, data, binding)


def tensors_of(*deciding: str) -> Break:
    return lambda draw, data: broken_tensors(draw, data, deciding)


def text(draw: Draw[Any], data: bytes) -> tuple[bytes, Damage]:
    changed, what = broken_bytes(draw, data)
    return changed, Damage(what=what, must_not_pass=False)


def source(draw: Draw[Any], data: bytes) -> tuple[bytes, Damage]:
    """The file of an engine: a user's own code, but broken code is no bug of ours."""
    lines = (
        *("Engine = 5", "import nothing_of_that_name", "raise SystemExit(0)", "raise KeyboardInterrupt", "del Engine"),
        *("raise ValueError", ")", "\0", "Engine.__init__ = lambda self, weights, options: nothing"),
        *("Engine.__enter__ = lambda self: 1 / 0", "Engine.run = lambda self, case, progress: None", "\udcff"),
        *("Engine.name = 'official'", "Engine.name = '../x'", "Engine.name = 'x' * 10_000"),
    )
    line = draw(st.sampled_from(lines))
    return data + f"\n{line}\n".encode(errors="surrogateescape"), Damage(what=f"ends in {line!r}", must_not_pass=False)


def _always(broken: tuple[bytes, str], data: bytes) -> tuple[bytes, Damage]:
    return broken[0], Damage(what=broken[1], must_not_pass=broken[0] != data)


def _weights(draw: Draw[Any], data: bytes) -> tuple[bytes, Damage]:
    """A checkpoint: header damage above all, and in it the configuration of the model."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    if draw(st.sampled_from((False, False, False, True))):
        return broken_tensors(draw, data, ())
    config, damage = broken_json(draw, header["__metadata__"]["config"].encode(), ())
    header["__metadata__"]["config"] = config.decode(errors="replace")
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return len(packed).to_bytes(8, "little") + packed + tensors, Damage(what=damage.what, must_not_pass=False)


def sealed_run(root: Path, path: Path) -> None:
    """Let run.json vouch for a changed file beside it, as whoever changes one would."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edited(path.parent / "run.json", lambda document: document["files"].update({path.name: digest}))


def sealed_golden(root: Path, path: Path) -> None:
    """Let golden.json vouch for a changed run.json of a golden, and that for what lies beside it."""
    if path.name != "run.json":
        sealed_run(root, path)
    digest = hashlib.sha256((path.parent / "run.json").read_bytes()).hexdigest()
    golden = path.parent.parent / "golden.json"
    edited(golden, lambda document: document["history"][-1].update(run_sha256=digest))


def sealed_samples(root: Path, path: Path) -> None:
    """Let the registry name changed samples."""
    name = f"{WHOLE}-{hashlib.sha256(path.read_bytes()).hexdigest()}.json"
    path.rename(path.with_name(name))
    edited(
        path.parent.parent / "consistency_threshold.json",
        lambda document: [table.update(samples=name) for table in document["tables"]],
    )


BLESSED = (f"root/golden/{WHOLE}", f"root/golden/{REDUCED}", "root/thresholds", "store", "root/build")
W = ("--weights", "{}/weights", "--quiet")
ENGINE = ("--runner", "{}/files/engine.py:Engine")
BITS = call("gate", "{}/runs/mine", "--against", "{}/runs/ref", judges=True)
LIMITS = call("gate", "{}/runs/elsewhere", "--against", "{}/runs/ref", "--junit", "{}/out/gate.xml")
GOLDEN = call("gate", "{}/runs/mine", judges=True)
DOCTOR = call("doctor")
REJUDGE = call("rejudge", judges=True)
REJUDGE_LIMITS = call("rejudge")
FETCH = call("fetch", REDUCED, "--out", "{}/out/fetched", judges=True)
EXPLAIN = call("explain", "{}/runs/mine", "--against", "{}/runs/ref", "--drift", "out")
DIFF = call("diff", "{}/runs/ref", "{}/runs/mine", "--out", "{}/out/numbers.json")
REPORT = call("report", "{}/runs/mine", "--against", "{}/runs/ref", "--out", "{}/out/page.html")
BLESS = call("bless", "{}/runs/ref", "--reason", "again", writes=BLESSED)
IDENTIFY = call("identify", "{}/runs/mine", *W, "--out", "{}/out/identity.json")
PERF = call("perf", "{}/runs/mine", "--json")
CASE_RUN = call("run", *ENGINE, "--case", "{}/case/case.toml", *W, "--out", "{}/out/run")
GATE_REDUCED = call("gate", "{}/runs/theirs", judges=True)
DIFF_REDUCED = call("diff", "golden", "{}/runs/theirs")
AGAINST = ("--against", "{}/runs/ref")
PAGE = ("--out", "{}/out/page.html")
UPDATE = call("perf", "{}/runs/mine", "--update", "--few", "--reason", "x", writes=BLESSED)
NUMBERS = call("gate", "{}/files/numbers.json", "--numbers", judges=True)
RECORD = call("rejudge", "--record", "{}/files/numbers.json", writes=(f"root/golden/{WHOLE}/numbers",))
FAST = call("gate", "{}/runs/mine", *AGAINST, "--perf")
ISOLATED = ("--isolated", "{}/files/alone.json")
GATE_ISOLATED = call("gate", "{}/runs/mine", *AGAINST, *ISOLATED, judges=True)
REPORT_ISOLATED = call("report", "{}/runs/mine", *AGAINST, *ISOLATED, *PAGE)
MUTATE = call(
    "mutate", "--case", "{}/case/case.toml", "--weights", "{}/weights", "--defect", "none_of_that_name", honest=2
)
EXPLAIN_ELSEWHERE = call("explain", "{}/runs/elsewhere", *AGAINST)
EXPLAIN_FLOORS = call("explain", "{}/runs/mine", *AGAINST, "--floors", "{}/files/floors.json")
REPORT_IDENTIFIED = call("report", "{}/runs/mine", *AGAINST, "--identified", "{}/files/identity.json", *PAGE)
IMPORT = call(
    *("import", "--case", "{}/case/case.toml", "--runner-name", "x", "--quiet", "--out", "{}/out/run"),
    *("--frames", "{}/files/frames", "--audio", "{}/files/sound.wav", "--latents", "{}/files/latents.safetensors"),
)
IMPORT_CLIP = call(
    *("import", "--case", "{}/case/case.toml", "--runner-name", "x", "--quiet", "--out", "{}/out/run"),
    *("--frames", "{}/files/clip.mp4"),
)
CHECK = call("check-runner", "{}/files/engine.py:Engine", "--case", "{}/case/case.toml", *W[:2], honest=1)
WEIGHTS_CALLS = (
    call("run", "--runner", "native", "--case", "{}/case/case.toml", *W, "--out", "{}/out/run"),
    call("run", "--runner", "official", "--case", "{}/case/case.toml", *W, "--out", "{}/out/run"),
    CASE_RUN,
    call("amplify", "--case", "{}/case/case.toml", *W, "--out", "{}/out/floors.json"),
    call("isolate", "{}/runs/ref", *W, "--out", "{}/out/alone.json"),
    IDENTIFY,
    call("suite", "--case", "{}/case/case.toml", *W, "--out", "{}/out/suite"),
    call(
        "calibrate",
        "--case",
        "{}/case/case.toml",
        "--weights",
        "{}/weights",
        "--from-samples",
        honest=2,
        writes=BLESSED,
    ),
)

CASE_BINDING: tuple[PathOf, ...] = tuple(
    ("request", key) for key in ("prompt", "seed", "height", "width", "num_frames", "num_inference_steps", "frame_rate")
)
RUN_BINDING: tuple[PathOf, ...] = (
    *(("case", *place) for place in CASE_BINDING),
    *((name,) for name in ("schema_version", "inputs", "reference", "weights_hash", "frame_rate", "sample_rate_hz")),
    *((name,) for name in ("sigmas", "files", "runner", "tier", "dtype")),
)
# Saved numbers of two runs that are judged by equality, which looks at these alone.
NUMBERS_BINDING: tuple[PathOf, ...] = (
    *(
        ("numbers", "metrics", f"outputs.bit_equal.{name}")
        for name in ("frames", "audio", "video_latent", "audio_latent")
    ),
    *(("numbers", "metrics", name) for name in ("taps.bit_different", "frames.count.difference")),
    ("numbers", "reference", "run_sha256"),
)

TARGETS = (
    Target(
        path="runs/mine/run.json",
        broken=json_of(*RUN_BINDING),
        calls=(
            BITS,
            GOLDEN,
            DIFF,
            EXPLAIN,
            REPORT,
            IDENTIFY,
            PERF,
            UPDATE,
        ),
        weight=6,
    ),
    Target(path="runs/ref/run.json", broken=json_of(*RUN_BINDING), calls=(BITS, BLESS, DIFF, EXPLAIN), weight=4),
    Target(path="runs/elsewhere/run.json", broken=json_of(*RUN_BINDING), calls=(LIMITS,), weight=2),
    Target(
        path="runs/mine/outputs.safetensors",
        broken=tensors_of(*OUTPUTS),
        calls=(BITS, GOLDEN, DIFF, REPORT),
        seal=sealed_run,
        weight=4,
    ),
    Target(path="runs/ref/outputs.safetensors", broken=tensors_of(*OUTPUTS), calls=(BITS, BLESS), seal=sealed_run),
    Target(path="runs/elsewhere/outputs.safetensors", broken=tensors_of(), calls=(LIMITS,), seal=sealed_run),
    Target(
        path="runs/mine/trace.safetensors",
        broken=tensors_of("checksum", "names", "shape_index", "dtype_index", "nan_count", "inf_count"),
        calls=(BITS, GOLDEN, DIFF, EXPLAIN, REPORT),
        seal=sealed_run,
        weight=4,
    ),
    Target(path="runs/elsewhere/trace.safetensors", broken=tensors_of(), calls=(LIMITS,), seal=sealed_run, weight=2),
    Target(
        path="runs/ref/trace.safetensors", broken=tensors_of("checksum", "names"), calls=(BITS, BLESS), seal=sealed_run
    ),
    Target(path="runs/mine/video.mp4", broken=text, calls=(BITS, REPORT)),
    Target(
        path=f"root/golden/{WHOLE}/golden.json",
        broken=json_of(("schema_version",), ("case_sha256",), ("history", 0, "run_sha256")),
        calls=(GOLDEN, DOCTOR, BLESS, REJUDGE),
        weight=3,
    ),
    Target(
        path=f"root/golden/{WHOLE}/case.toml", broken=toml_of(*CASE_BINDING), calls=(GOLDEN, DOCTOR, BLESS), weight=2
    ),
    Target(
        path=f"root/golden/{WHOLE}/run/run.json",
        broken=json_of(*RUN_BINDING),
        calls=(GOLDEN, DOCTOR, REJUDGE),
        seal=sealed_golden,
        weight=2,
    ),
    Target(
        path=f"root/golden/{WHOLE}/run/trace.safetensors",
        broken=tensors_of("checksum", "names"),
        calls=(GOLDEN, REJUDGE),
        seal=sealed_golden,
    ),
    Target(path=f"root/golden/{WHOLE}/a.png", broken=broken_picture, calls=(GOLDEN, DOCTOR, BLESS)),
    Target(
        path=f"root/golden/{REDUCED}/golden.json",
        broken=json_of(("history", 0, "whole")),
        calls=(FETCH, DOCTOR),
        weight=2,
    ),
    Target(
        path=f"root/golden/{REDUCED}/run/checksums.safetensors",
        broken=tensors_of("digests"),
        calls=(GATE_REDUCED, DIFF_REDUCED),
        seal=sealed_golden,
        weight=2,
    ),
    Target(
        path=f"root/golden/{REDUCED}/run/reduced.safetensors",
        broken=tensors_of(),
        calls=(GATE_REDUCED, DIFF_REDUCED),
        seal=sealed_golden,
    ),
    Target(
        path=f"root/golden/{REDUCED}/run/frame_middle.png",
        broken=broken_picture,
        calls=(DIFF_REDUCED,),
        seal=sealed_golden,
    ),
    Target(
        path="store/*/*", broken=lambda draw, data: _always(broken_bytes(draw, data), data), calls=(FETCH,), weight=2
    ),
    Target(
        path=f"root/golden/{WHOLE}/numbers/*.json",
        broken=json_of(("outcome",), *NUMBERS_BINDING),
        calls=(REJUDGE,),
        weight=3,
    ),
    Target(
        path="files/numbers.json",
        broken=json_of(("schema_version",), *(place[1:] for place in NUMBERS_BINDING)),
        calls=(
            NUMBERS,
            RECORD,
        ),
        weight=2,
    ),
    Target(
        path="root/thresholds/consistency_threshold.json",
        broken=json_of(("schema_version",)),
        calls=(LIMITS, REJUDGE_LIMITS, EXPLAIN_ELSEWHERE),
        weight=3,
    ),
    Target(
        path="root/thresholds/samples/*.json",
        broken=json_of(("samples",)),
        calls=(LIMITS, REJUDGE),
        seal=sealed_samples,
        weight=2,
    ),
    Target(
        path="root/thresholds/perf_baselines.json",
        broken=json_of(("schema_version",)),
        calls=(PERF, FAST),
    ),
    Target(
        path="files/samples.json",
        broken=json_of(("schema_version",), ("kind",)),
        calls=(call("perf", "{}/files/samples.json"),),
    ),
    Target(path="root/docs/measurements/mutation_tiny.json", broken=json_of(), calls=(LIMITS,), kinds_matter=False),
    Target(
        path="files/alone.json",
        broken=json_of(
            ("schema_version",),
            ("case",),
            ("whole",),
            ("steps",),
            ("stages",),
            ("weights_hash",),
            ("rows", "*", "where"),
            ("rows", "*", "added"),
        ),
        calls=(
            GATE_ISOLATED,
            REPORT_ISOLATED,
        ),
        weight=3,
    ),
    Target(path="files/frames/*.png", broken=broken_picture, calls=(IMPORT,), weight=2),
    Target(path="files/sound.wav", broken=text, calls=(IMPORT,), weight=2),
    Target(path="files/latents.safetensors", broken=tensors_of(), calls=(IMPORT,)),
    Target(path="files/clip.mp4", broken=text, calls=(IMPORT_CLIP,), weight=2),
    Target(
        path="files/floors.json",
        broken=json_of(("schema_version",)),
        calls=(EXPLAIN_FLOORS,),
    ),
    Target(
        path="files/identity.json",
        broken=json_of(("schema_version",), ("run_sha256",)),
        calls=(REPORT_IDENTIFIED,),
    ),
    Target(
        path="files/request.json",
        broken=json_of(),
        calls=(call("case", "--from-request", "{}/files/request.json"),),
        weight=2,
    ),
    Target(
        path="case/case.toml",
        broken=toml_of(),
        calls=(
            CASE_RUN,
            call("case", "--to-request", "{}/case/case.toml"),
            MUTATE,
        ),
        weight=4,
    ),
    Target(path="case/a.png", broken=broken_picture, calls=(CASE_RUN, *WEIGHTS_CALLS[:2]), weight=2),
    Target(path="files/engine.py", broken=source, calls=(CASE_RUN, CHECK), kinds_matter=True),
    Target(
        path="weights/ltx-2.3.safetensors",
        broken=_weights,
        calls=WEIGHTS_CALLS,
        weight=2,
    ),
    Target(path="weights/gemma/config.json", broken=json_of(), calls=WEIGHTS_CALLS, weight=2),
    Target(path="weights/gemma/tokenizer.json", broken=json_of(), calls=WEIGHTS_CALLS[:2], kinds_matter=False),
    Target(path="weights/gemma/tokenizer_config.json", broken=json_of(), calls=WEIGHTS_CALLS[:2], kinds_matter=False),
    Target(path="weights/gemma/preprocessor_config.json", broken=json_of(), calls=WEIGHTS_CALLS[:2]),
    Target(path="weights/gemma/model.safetensors", broken=tensors_of(), calls=WEIGHTS_CALLS[:4]),
)
