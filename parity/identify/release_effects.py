"""The effect of each named change between two official releases by itself, of all together, and what they leave open.

The native model is the official one bit for bit at every release, so it can do what official code cannot: turn one
behaviour and leave the rest. Each is turned alone, from the older run's release on. Effects of single changes do not
add up to that of all: the model is not linear, and what one moves another may move back.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from parity.identify.effect import effect
from parity.identify.releases import ReleaseChange, named
from parity.runs.case import case_of_run
from parity.runs.execute import device_named, run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from runners.case import Case
from runners.clock import Quiet
from runners.errors import RunError
from runners.files import sha256_of
from runners.native.runner import NativeRunner
from runners.protocol import DTYPES, RunOptions
from runners.weights import Weights

Say = Callable[[str], None]


def measured(old: Run, new: Run, weights: Weights, pictures: Path, say: Say) -> ReleaseChange:
    """The changes that two official runs of different releases show with weights: each by itself.

    Args:
        old: official run of the release to start from.
        new: official run of another one, of the same request.
        weights: those that both were run with.
        pictures: folder with the request's pictures.
        say: told what is run.
    Raises: RunError if the runs, the weights or the pictures do not belong together.
    """
    found = named(old, new)
    case = _case_with_pictures(old, pictures)
    weights_hash = weights.of_pipeline(case.pipeline).hash
    if weights_hash != old.manifest.weights_hash:
        raise RunError(f"{old.folder} was run with other weights than the {weights_hash[:12]} given; pass its own.")
    options = RunOptions(device=compute_as(old), dtype=DTYPES[old.manifest.dtype])
    with tempfile.TemporaryDirectory(prefix="parity-changes-") as folder:

        def native(release: str, behaviours: dict[str, bool]) -> Run:
            say(f"native at {release}" + "".join(f", {name} = {str(on).lower()}" for name, on in behaviours.items()))
            out = Path(folder) / "-".join((release, *behaviours))
            at = msgspec.structs.replace(case, reference=release)
            turned = replace(options, behaviours=behaviours)
            tracing = writing_trace("*", "sketch")
            run_to_folder(NativeRunner(weights, turned), at, weights, turned, out, Quiet(), tracing)
            return read_run(out)

        before = native(found.old, {})
        alone = {change.name: effect(before, native(found.old, {change.name: change.on})) for change in found.changes}
        compute_as(new)
        after = native(found.new, {})
        return replace(
            found,
            alone=alone,
            together=effect(before, after),
            left={found.old: effect(old, before), found.new: effect(new, after)},
        )


def compute_as(run: Run) -> torch.device:
    """Compute on as many threads as a run did from now on, and return its device. Raises: RunnerError without one."""
    environment = run.manifest.environment
    device = device_named(str(environment.get("device", "cpu")))
    threads = environment.get("threads")
    if device.type == "cpu" and isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)
    return device


def _case_with_pictures(run: Run, folder: Path) -> Case:
    """The case of a run with its pictures found in a folder. Raises: RunError if they are not there, or others."""
    for name, wanted in run.manifest.inputs.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != wanted:
            raise RunError(
                f"{path} is not the picture that {run.folder} was run with; name its folder with --pictures."
            )
    return case_of_run(run, folder)
