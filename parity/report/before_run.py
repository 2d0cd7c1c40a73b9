"""Limits that a verdict of a run will lack, said before the run takes its time: of its case, release or environment.

A look into the registry of limits, and nothing else. It decides nothing: the gate does, once there is a run.
"""

from collections.abc import Iterable, Mapping

from parity.judge.gate import release_of_limits
from parity.judge.registry import Registry, device_of, load_registry, root_of_limits
from parity.runs.places import limits_path
from runners.case import Case
from runners.errors import RegistryError


def lacking_limits(case: Case, environment: Mapping[str, object], *, in_child: bool = False) -> tuple[str, ...]:
    """A line for each thing that limits are missing for.

    Args:
        case: that will be run, with whatever the command line changed.
        environment: fingerprint of this process.
        in_child: whether another interpreter will run it, which nobody has asked yet: of the environment only the
            device and the number of threads are its own then.
    """
    try:
        path = limits_path(root_of_limits(case.id))
        if not path.is_file():
            return (f"there are no limits here ({path}), so a gate can tell equal bits alone",)
        registry = load_registry(path)
    except RegistryError as error:
        return (f"limits cannot be read, so a gate can tell equal bits alone: {error}",)
    device = device_of(environment)
    if not registry.limits_of(case.id, device):
        measured = ", ".join(other or "a CPU" for other in registry.devices_of(case.id)) or "nowhere"
        return (
            f"case {case.id!r} has no limits on {device or 'a CPU'} (measured: {measured}), so a gate can tell equal "
            "bits alone; `parity calibrate` measures them",
        )
    return (*_release(case), *_environment(case, registry, environment, in_child))


def _release(case: Case) -> Iterable[str]:
    named = release_of_limits(case.id)
    if named not in (None, case.reference):
        yield (
            f"limits of case {case.id!r} hold at release {named}, which its file names; this run follows "
            f"{case.reference}, so a gate can tell equal bits alone"
        )


def _environment(case: Case, registry: Registry, environment: Mapping[str, object], in_child: bool) -> Iterable[str]:
    said = {key: str(value) for key, value in environment.items()}
    limits = registry.limits_of(case.id, device_of(environment)).values()
    origins = [registry.calibrations[name] for name in sorted({one.calibration for one in limits if one.calibration})]
    changed = dict.fromkeys(change.beside for origin in origins for change in origin.changed(said))
    if changed and not in_child:
        yield f"limits of case {case.id!r} were measured elsewhere ({'; '.join(changed)}), so they pass nothing here"
    threads = sorted({origin.environment["threads"] for origin in origins if "threads" in origin.environment})
    if said.get("device") == "cpu" and threads and said.get("threads") not in threads:
        yield (
            f"limits of case {case.id!r} were measured on {' and '.join(threads)} CPU thread(s), this run computes on "
            f"{said.get('threads')}: they hold, but bits equal those of a run on as many threads alone"
        )
