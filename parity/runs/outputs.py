"""`outputs.safetensors`: the four tensors that a run puts out, written by whoever ran it, read as a stranger's data.

Torch, numpy and safetensors are enough to write it, so an engine in an interpreter of its own does.

Axes: F frame, H height, W width, C channel, N sample, T token, M mel bin.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from parity.trace.atomic import file_atomic
from runners.errors import RunError
from runners.files import HeldFile, opened_tensors
from runners.protocol import Outcome

OUTPUTS_FILE = "outputs.safetensors"
MAX_BYTES = 4 << 30  # where the case is not known: two minutes at 1536 x 1024
LATENT_DTYPES = ("BF16", "F32", "F16", "F64")
OUTPUTS = {
    "video_frames": (4, ("U8",)),  # (F, H, W, C)
    "audio_waveform": (2, ("F32",)),  # (C, N)
    "video_latent": (5, LATENT_DTYPES),  # (1, C, F, H, W)
    "audio_latent": (4, LATENT_DTYPES),  # (1, C, T, M)
}  # number of axes and dtypes
LATENTS = ("video_latent", "audio_latent")  # which imported outputs may lack


def write_outputs(folder: Path, outcome: Outcome) -> None:
    """Write the outputs of a run into a folder. Raises: RunError if they cannot be written."""
    write_tensors(
        folder / OUTPUTS_FILE,
        {name: made for name in OUTPUTS if (made := getattr(outcome, name)) is not None},
        {"frame_rate": repr(outcome.frame_rate), "sample_rate": str(outcome.sample_rate_hz)},
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all. Raises: RunError if it cannot be written."""
    try:
        with file_atomic(path) as new:  # the library makes files that only their owner may read
            data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(data, new, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:  # how the library says that a disk is full
        raise RunError(f"{path} cannot be written ({error}); make room or take another place.") from error


def misshapen_outputs(path: Path | HeldFile, max_bytes: int = MAX_BYTES) -> Iterable[tuple[str, str]]:
    """Outputs of a shape that no run of any case has, which says that they are wrong, not that they are unknown.

    Gives names, and in words the shape and what was wanted, from the header alone. Raises: RunError for a file that is
    none of tensors.
    """
    with opened_tensors(path, RunError, "the run is damaged", max_bytes=max_bytes) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys() if name in OUTPUTS}  # noqa: SIM118
    for name, shape in shapes.items():
        axes, _ = OUTPUTS[name]
        if len(shape) != axes:
            yield name, f"has shape {shape}; wanted {axes} axes"
        elif name == "video_frames" and shape[-1] != 3:
            yield name, f"has shape {shape}; wanted (F, H, W, 3)"


def read_outputs(path: Path | HeldFile, max_bytes: int = MAX_BYTES, *, latents: bool = True) -> dict[str, Tensor]:
    """The four outputs, or the two beside the latents.

    Raises: RunError; shapes and dtypes are checked in the header before anything is read.
    """
    forms = {name: form for name, form in OUTPUTS.items() if latents or name not in LATENTS}
    tensors = read_tensors(path, forms, max_bytes)
    if tensors["video_frames"].shape[-1] != 3:
        raise RunError(f"video_frames in {path} has shape {tuple(tensors['video_frames'].shape)}; wanted (F, H, W, 3).")
    return tensors


def read_tensors(
    path: Path | HeldFile, forms: Mapping[str, tuple[int, tuple[str, ...]]], max_bytes: int = MAX_BYTES
) -> dict[str, Tensor]:
    """The tensors of a file that holds these and no others, by number of axes and dtypes.

    Raises: RunError; the header is checked before anything is read.
    """
    with opened_tensors(path, RunError, "the run is damaged", max_bytes=max_bytes) as file:
        if set(file.keys()) != set(forms):
            raise RunError(f"{path} holds {sorted(file.keys())[:20]}; wanted {sorted(forms)}.")
        for name, (axes, dtypes) in forms.items():
            part = file.get_slice(name)
            if len(part.get_shape()) != axes or part.get_dtype() not in dtypes:
                raise RunError(
                    f"{name} in {path} is {part.get_dtype()} {part.get_shape()}; "
                    f"wanted {axes} axes of {' or '.join(dtypes)}."
                )
        return {name: file.get_tensor(name) for name in forms}
