"""Outputs that an engine left elsewhere, made a run folder like any other.

An engine behind a server or a window hands out a clip: frames, sound, perhaps the final latents and a dump of tensors.
They are read as a stranger's data, held to what the case fixes, and written as a run that says it was imported. Of the
machine and the weights behind them nothing is known; the environment of the run is that of the import.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from parity.runs.clip import Clip, ClipForm, read_clip
from parity.runs.encoding import Encoding
from parity.runs.environment import fingerprint
from parity.runs.execute import writing_trace
from parity.runs.folder import IMPORTED, ImportRecord, dtype_label, holds_run, write_run
from parity.runs.frame_folder import read_frame_folder
from parity.runs.outputs import LATENTS, OUTPUTS, read_tensors
from parity.runs.wav import Sound, read_wav
from parity.taps.dataflow import Dataflow
from parity.trace.atomic import folder_atomic, require_folder
from parity.trace.name_map import NameMap, read_name_map
from parity.trace.prompt_tokens import prompt_tokens
from runners.case import Case
from runners.catalogue import require_own_name
from runners.errors import MediaError, RunError, RunnerError
from runners.files import HeldFile, opened_tensors
from runners.loras import lora_hashes
from runners.protocol import CANDIDATE, TAPS_OFFERED, Outcome
from runners.tap import tap
from runners.weights import Weights, num_blocks

MOST_DUMP_BYTES: Final = 1 << 40
UNKNOWN: Final = ""  # of weights that nobody named


@dataclass(frozen=True, kw_only=True)
class ImportedFiles:
    """The files of an engine. `frames` is a folder of PNGs or a video file; no `sound` takes that of the video file."""

    frames: Path
    sound: Path | None = None
    latents: Path | None = None  # safetensors with `video_latent` and `audio_latent`
    taps: Path | None = None  # safetensors with tensors of any names
    names: Path | None = None  # TOML: tap -> name of a tensor in `taps`


def import_run(
    out: Path,
    case: Case,
    files: ImportedFiles,
    *,
    runner: str,
    weights: Weights | None,
    device: torch.device,
    dtype: torch.dtype,
    replace: bool = False,
) -> ImportRecord:
    """Write the run folder `out`, whole or not at all.

    Args:
        out: the folder.
        case: the request that the engine was given.
        files: what it left.
        runner: the engine's name, in a run's words; not that of a runner known here.
        weights: those that the engine is said to have loaded; None where nobody says. Taps need them.
        device: of the limits that shall hold; the run records this process's environment on it.
        dtype: that the engine is said to have computed in.
        replace: replace a finished run in `out`.
    Raises: RunnerError for a name, MediaError for frames or sound, RunError for latents or taps, CaseError for pictures
        of the case that are missing.
    """
    used = None if weights is None else weights.of_pipeline(case.pipeline)
    require_own_name(runner, "--runner-name")
    require_folder(out, holds_run, replace=replace)  # before anything is decoded
    if (files.taps is None) != (files.names is None) or (files.taps is not None and weights is None):
        raise RunnerError(
            "--taps-from goes with --map, which names its tensors, and with --weights, which say what taps there are."
        )
    request = case.request
    form = ClipForm(
        frames=request.num_frames, height=request.height, width=request.width, frame_rate=request.frame_rate
    )
    sources: dict[str, str] = {}
    clip = _clip(files.frames, form, sources)
    sound = _sound(files, clip, form, sources)
    latents: dict[str, Any] = dict.fromkeys(LATENTS)  # a runner owes its latents; a clip from elsewhere may have none
    if files.latents is not None:
        forms = {name: OUTPUTS[name] for name in LATENTS}
        held = HeldFile(files.latents, max_bytes=form.most_bytes)
        latents |= read_tensors(held, forms, form.most_bytes)
        sources["latents"] = held.sha256
    video = clip.encoding.video
    dump = None if files.taps is None else HeldFile(files.taps, max_bytes=MOST_DUMP_BYTES)
    if dump is not None:
        sources["taps"] = dump.sha256
    imported = ImportRecord(
        form=Encoding(video=video, sound=clip.encoding.sound if files.sound is None else None).label,
        latents=files.latents is not None,
        sources=sources,
        doubts=(*clip.doubts, *sound.doubts),
    )
    taps: list[str] = []
    with folder_atomic(out, holds_run, replace=replace) as folder:
        if dump is not None and files.names is not None and weights is not None:
            taps = _replay(dump, read_name_map(files.names), case, weights, folder)
        outcome = Outcome(
            video_frames=clip.frames,
            audio_waveform=sound.waveform,
            **latents,
            frame_rate=clip.frame_rate,
            sample_rate_hz=sound.sample_rate_hz,
            sigmas=torch.empty(0),
            stage_s={},
            step_s=[],
            peak_bytes=0,
            details={
                IMPORTED: msgspec.to_builtins(imported),
                TAPS_OFFERED: taps,
                CANDIDATE: list(_described(imported, video is None, files, weights)),
            },
        )
        write_run(
            folder,
            case,
            outcome,
            runner=runner,
            tier="exact",
            dtype=dtype_label(dtype),
            weights_hash=UNKNOWN if used is None else used.hash,
            model_version=UNKNOWN if used is None else used.model_version,
            environment=fingerprint(device),
            end_to_end_s=0.0,
            num_blocks=None if used is None else num_blocks(used),
            loras={} if used is None else lora_hashes(case, used, device),
        )
    return imported


def _clip(path: Path, form: ClipForm, sources: dict[str, str]) -> Clip:
    if path.is_dir():
        frames, sources["frames"] = read_frame_folder(path, form)
        return Clip(
            frames=frames, frame_rate=form.frame_rate, waveform=None, sample_rate_hz=0, encoding=Encoding(), doubts=()
        )
    file = HeldFile(path, MediaError, "wanted a video file of the case's length", max_bytes=form.most_bytes)
    sources["frames"] = file.sha256
    return read_clip(file, form)


def _sound(files: ImportedFiles, clip: Clip, form: ClipForm, sources: dict[str, str]) -> Sound:
    if files.sound is not None:
        file = HeldFile(files.sound, MediaError, "wanted a WAV file of the case's length", max_bytes=form.most_bytes)
        sources["sound"] = file.sha256
        sound = read_wav(file, form.most_samples)
    elif clip.waveform is not None:
        sound = Sound(waveform=clip.waveform, sample_rate_hz=clip.sample_rate_hz, doubts=())
    else:
        raise MediaError(f"{files.frames} has no sound; give it as a WAV file with --audio.")
    if not bool(sound.waveform.isfinite().all()):
        raise MediaError("The sound has NaN or infinite samples; save it again.")
    return sound


def _described(
    imported: ImportRecord, pictures: bool, files: ImportedFiles, weights: Weights | None
) -> tuple[str, ...]:
    """The phrases that a verdict begins with of an imported run."""
    frames = "frames from pictures" if pictures else "frames from a video file"
    sound = "sound from a WAV file" if files.sound is not None else "sound of that file"
    missing = "" if imported.latents else ", no latents"
    machine = "the engine's machine and weights are" if weights is None else "the engine's machine is"
    return (f"imported: {frames}, {sound}{missing} (form {imported.form}); {machine} not known",)


def _replay(dump: HeldFile, names: NameMap, case: Case, weights: Weights, folder: Path) -> list[str]:
    """Let a writer hear the tensors of a dump as taps, in data-flow order; returns the patterns of these.

    Raises: RunError for a dump that lacks what the map promises.
    """
    flow = Dataflow(case, num_blocks(weights))
    pairs = names.expand(flow.taps)
    with opened_tensors(dump, RunError, "dump the tensors again", max_bytes=MOST_DUMP_BYTES) as file:
        held = set(file.keys())
        if lacking := [f"{name} (tap {of})" for of, name in pairs if name not in held]:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            raise RunError(f"{dump} lacks {', '.join(lacking[:3])}{more}, which the map names; dump them too.")
        with writing_trace("*", "sketch", prompt_tokens(case, weights))(folder):
            for of, name in pairs:
                tap(of, file.get_tensor(name))
    return list(names.patterns)
