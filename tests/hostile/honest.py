"""An honest checkout with one of everything that a verb reads, made by the verbs themselves.

All of it is of the micro model: two blocks, two steps, nine frames of 64 x 96. Every document is what the verb that
writes it wrote, except the limits, whose samples are made up.
"""

import json
import os
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from parity.cli.app import app
from parity.judge.timed import TimedSamples, timed_run
from parity.runs.folder import read_run
from parity.taps.dataflow import Dataflow
from runners.case import load_case
from tests.parity.made_up_limits import save_limits, save_score

WHOLE, REDUCED = "micro", "reduced"  # cases, by how their goldens are kept
PICTURE = '[[request.images]]\npath = "a.png"\nframe_idx = 0\nstrength = 1.0\ncrf = 33\n'
ENGINE = '''
"""An engine that makes up outputs at once."""
import torch
from runners.protocol import Capabilities, Outcome

class Engine:
    name = "engine"
    capabilities = Capabilities(
        switches=frozenset(), tiers=frozenset({"exact"}), dtypes=frozenset({torch.bfloat16}),
        releases=frozenset({"1.0.0"}), behaviours=False, taps=(),
    )

    def __init__(self, weights, options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, case, progress):
        request = case.request
        return Outcome(
            video_frames=torch.zeros(request.num_frames, request.height, request.width, 3, dtype=torch.uint8),
            audio_waveform=torch.zeros(2, 4800), video_latent=torch.zeros(1, 128, 2, 2, 3),
            audio_latent=torch.zeros(1, 8, 5, 16), frame_rate=request.frame_rate, sample_rate_hz=24000,
            sigmas=torch.linspace(1, 0, request.num_inference_steps + 1), stage_s={}, step_s=[],
            peak_bytes=0, details={},
        )
'''


def call(*arguments: object, expect: int = 0) -> None:
    """Run a verb that must end so."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == expect, f"{arguments}: {found.exit_code}\n{found.output}"


def build(base: Path, weights: Path, case_text: str) -> None:
    """Fill a folder: `root` (goldens, limits), `store`, `runs`, `files`, `case`, `weights`."""
    import skimage.data

    root = base / "root"
    os.environ |= {"PARITY_ROOT": str(root), "PARITY_STORE": str(base / "store")}
    shutil.copytree(weights, base / "weights")
    picture = Image.fromarray(skimage.data.astronaut()[:61, 100:197])
    for name in (WHOLE, REDUCED):
        folder = root / "golden" / name
        folder.mkdir(parents=True)
        head, table, guidance = case_text.partition("[guidance.video]")
        (folder / "case.toml").write_text(head.replace('"micro"', f'"{name}"') + PICTURE + table + guidance)
        picture.save(folder / "a.png")
    (root / "thresholds").mkdir()
    (root / "docs" / "measurements").mkdir(parents=True)
    runs, files = base / "runs", base / "files"
    files.mkdir()
    given = ("--weights", base / "weights", "--quiet")
    for name, runner, case in (
        ("ref", "official", WHOLE),
        ("mine", "native", WHOLE),
        ("other", "official", REDUCED),
        ("theirs", "native", REDUCED),
    ):
        call("run", "--runner", runner, "--case", case, *given, "--taps", "*", "--out", runs / name)
    shutil.copytree(runs / "mine", runs / "elsewhere")  # where the processor is another, so that limits judge
    edited(runs / "elsewhere" / "run.json", lambda document: document["environment"].update(cpu="another"))
    save_limits(root, Dataflow(load_case(root / "golden" / WHOLE / "case.toml"), 2), case=WHOLE)
    save_score(root, WHOLE)
    call("bless", runs / "ref", "--reason", "first")
    call("bless", runs / "other", "--reason", "first", "--reduced")
    call("isolate", runs / "ref", runs / "mine", *given, "--out", files / "alone.json")
    call("diff", "golden", runs / "mine", "--as-judged", "--out", files / "numbers.json")
    call("amplify", "--case", WHOLE, *given, "--out", files / "floors.json")
    call("identify", runs / "mine", *given, "--out", files / "identity.json")
    call("rejudge", "--record", files / "numbers.json")
    call("perf", runs / "mine", "--update", "--few", "--reason", "first")
    _samples(runs / "mine", files / "samples.json")
    said = CliRunner().invoke(app, ["case", "--to-request", WHOLE])
    (files / "request.json").write_text(said.stdout)
    picture.save(files / "a.png")
    (base / "case").mkdir()
    for name in ("case.toml", "a.png"):
        shutil.copyfile(root / "golden" / WHOLE / name, base / "case" / name)
    (files / "engine.py").write_text(ENGINE)
    _exported(runs / "mine", files)


def _exported(run: Path, files: Path) -> None:
    """Write what an engine that cannot be called would leave: frames, sound, whole taps and which is which."""
    (files / "frames").mkdir()
    outputs = read_run(run).outputs()
    for index, frame in enumerate(outputs.video_frames):
        Image.fromarray(frame.numpy()).save(files / "frames" / f"{index}.png")
    with wave.open(str(files / "sound.wav"), "wb") as clip:
        clip.setnchannels(outputs.audio_waveform.shape[0])
        clip.setsampwidth(2)
        clip.setframerate(outputs.sample_rate)
        clip.writeframes((outputs.audio_waveform.T.clamp(-1, 1) * 32767).short().numpy().tobytes())
    shutil.copyfile(run / "video.mp4", files / "clip.mp4")
    latents = {"video_latent": outputs.video_latent, "audio_latent": outputs.audio_latent}
    save_file(
        {name: tensor.contiguous() for name, tensor in latents.items() if tensor is not None},
        files / "latents.safetensors",
    )


def _samples(run: Path, path: Path) -> None:
    record = read_run(run).manifest
    samples = TimedSamples(
        date="2026-01-02",
        command="x",
        box="",
        code_version="y",
        warmup_runs=0,
        environment=record.environment,
        runs=(timed_run(record),),
    )
    path.write_text(json.dumps(samples.document(), indent=2))


def linked(base: Path, copy: Path) -> None:
    """A copy that costs nothing: files are links to the same content, and whoever changes one replaces it."""
    shutil.copytree(base, copy, copy_function=os.link, symlinks=True)


def edited(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON document in place of the linked file."""
    document = json.loads(path.read_text())
    change(document)
    replaced(path, json.dumps(document, indent=2).encode())


def replaced(path: Path, data: bytes) -> None:
    """Give a file other content, and its other names not."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
