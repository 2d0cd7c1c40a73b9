"""`parity calibrate`: measure floors, defects and speed now, and write limits and baselines that follow from them."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from parity.cli.threads import Threads, compute_on
from parity.cli.verb import err, out, verb

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from parity.calibrate.checkpoint import CalibrationCheckpoint
    from parity.judge.proposal import Proposal
    from runners.case import Case
    from runners.weights import Weights, WeightsFolder

PRESET = "tiny"  # cases of this preset are calibrated unless some are named


@verb
def calibrate(
    weights: Annotated[str | None, typer.Option(help="Folder of the model's files, or forge:PRESET:SEED.")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Id under golden/ or TOML file; default: tiny_*.")] = None,
    reason: Annotated[str, typer.Option(help="Why limits or baselines are loosened; needed where they are.")] = "",
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; limits hold there.")] = "cpu",
    only: Annotated[
        list[str] | None, typer.Option(help="Measure this harmless variation or defect only; repeat for more.")
    ] = None,
    samples: Annotated[Path | None, typer.Option(help="Keep each measurement here; a folder for cases.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Begin no measurement that would end later; with --samples it goes on."),
    ] = None,
    sparing: Annotated[
        bool | None,
        typer.Option(
            "--sparing/--whole",
            help="What limits need most first, rewrites part by part alone, limits as soon as there is enough; "
            "default on a GPU.",
        ),
    ] = None,
    perf_only: Annotated[bool, typer.Option("--perf-only", help="Only speed baselines.")] = False,
    from_samples: Annotated[
        bool, typer.Option("--from-samples", help="Work limits out again from the samples kept; nothing is run.")
    ] = False,
    limits_only: Annotated[bool, typer.Option("--limits-only", help="Only limits.")] = False,
    extend: Annotated[
        bool,
        typer.Option(
            "--extend", help="Measure harmless variations that the kept samples lack, and join them; no speed."
        ),
    ] = False,
    compiled: Annotated[
        bool, typer.Option(help="Count compiled code as harmless; takes a C++ compiler and minutes a case.")
    ] = True,
    form: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure limits of imported outputs in this lossy form instead, e.g. h264-yuv420p-crf23_wav."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Regenerate limits and speed baselines; refuses to loosen one without a reason."""
    import torch

    from parity.calibrate.checkpoint import CalibrationCheckpoint, measured_in
    from parity.diff.runs import subset_of_case, subset_phrase
    from parity.runs.execute import device_named
    from parity.runs.golden import find_case
    from parity.trace.atomic import require_named_target
    from runners.case import case_document
    from runners.errors import CaseError
    from runners.forge.weights import SCHEME, weights_named
    from runners.weights import WeightsFolder

    begun_s = time.monotonic()  # making weights takes time, too
    if perf_only and limits_only:
        raise CaseError("--perf-only and --limits-only exclude each other; leave both out to do both.")
    if from_samples:
        return _again(case, reason, json)
    if weights is None:
        raise CaseError("--weights is missing: a folder with the model's files, which `parity forge` makes.")
    where = device_named(device)
    compute_on(threads, where)
    cases = [find_case(name) for name in case or _default_cases()]
    if form:
        if where.type != "cpu" or samples is not None or only or perf_only or len(cases) != 1:
            raise CaseError("--form measures whole populations of one case on a CPU; name it with --case.")
        return _forms(Path(weights), cases[0], form, reason, compiled)
    kept: dict[str, Path | None] = {found.id: samples for found in cases}
    if samples is not None and len(cases) > 1:
        kept = {name: samples / f"{name}.json" for name in kept}
    for path in kept.values():
        require_named_target(path)
    if samples is not None and len(cases) > 1:
        samples.mkdir(parents=True, exist_ok=True)
    if extend and (only or perf_only):
        raise CaseError("--extend chooses what to measure, of limits alone; leave --only and --perf-only out.")
    limits_only |= extend or (where.type != "cpu" and not perf_only)
    if not limits_only and (where.type != "cpu" or weights.startswith(SCHEME)):
        raise CaseError(
            "Speed baselines are measured here on a CPU, of files; add --limits-only (bench/gpu.py is for speed)."
        )
    command = "parity calibrate " + " ".join(f"--case {found.id}" for found in cases)
    command += f" --threads {torch.get_num_threads()}" if where.type == "cpu" else f" --device {where.type}"
    command += "" if compiled else " --no-compiled"
    command += "" if sparing is None else " --sparing" if sparing else " --whole"
    command += "".join(f" --only {name}" for name in only or ()) + (" --extend" if extend else "")
    document: dict[str, Any] = {}
    # Speed first: memory is the process's peak, which the populations would raise.
    if not limits_only:
        document["baselines"] = _baselines(WeightsFolder(Path(weights)), cases, command, reason, json)
    if not perf_only:
        files = weights_named(weights, where)
        lacks = _lacking(cases, where, compiled) if extend else {}
        cases = [found for found in cases if not extend or lacks[found.id]]
        origin = {"weights": files.hash, "environment": measured_in(where)} if samples else {}
        checkpoints = {
            found.id: CalibrationCheckpoint(
                only=lacks.get(found.id, tuple(only or ())),
                kept=kept[found.id],
                minutes=minutes,
                begun_s=begun_s,
                origin={**origin, "case": case_document(found), "compared_on": subset_phrase(subset_of_case(found.id))}
                if samples
                else {},
            )
            for found in cases
        }
        spared = where.type != "cpu" if sparing is None else sparing
        document["limits"] = _limits(files, cases, command, reason, json, compiled, where, checkpoints, spared, extend)
    if json:
        out.document(document)
    return 0


def _forms(folder: Path, case: "Case", labels: list[str], reason: str, compiled: bool) -> int:
    """Measure limits through encoders, each form in a registry of its own, and count what they catch."""
    import torch

    from parity.calibrate.case_under_test import here
    from parity.calibrate.forms import measure_forms, populations_of, score_of
    from parity.calibrate.limits import propose_limits
    from parity.judge.registry import Registry, load_registry, save_registry
    from parity.judge.strength import load_strength
    from parity.report.tables import draw_changes
    from parity.runs.encoding import Encoding
    from parity.runs.places import form_limits_path, form_mutation_path, mutation_path
    from parity.trace.atomic import changing, write_json_atomic
    from runners.errors import CaseError
    from runners.weights import WeightsFolder

    encodings = [Encoding.of_label(label) for label in dict.fromkeys(labels)]
    if any(encoding.lossless for encoding in encodings):
        raise CaseError("A form that loses nothing has the limits of outputs; leave --form out to measure those.")
    strength, files = load_strength(mutation_path()), WeightsFolder(folder)
    command = f"parity calibrate --case {case.id} --threads {torch.get_num_threads()}"
    command += "" if compiled else " --no-compiled"
    for found in measure_forms(files, case, encodings, compiled, _say):
        label = found.encoding.label
        path = form_limits_path(label)
        with changing(path):
            old = load_registry(path) if path.exists() else Registry()
            populations = {case.id: populations_of(case, found)}
            proposal = propose_limits(old, files, populations, f"{command} --form {label}")
            draw_changes(out, proposal.changes)
            registry = proposal.accept(_reason(proposal, reason))
            save_registry(path, registry)
        score = score_of(case, found, registry, here(files), () if strength is None else strength.equivalents)
        write_json_atomic(form_mutation_path(label), score.document())
        out.print(
            f"{label}: {score.killed} of {len(score.rows)} known defects caught, "
            f"{len(score.false_alarms)} false alarms in {len(score.harmless)} harmless runs",
            markup=False,
        )
    return 0


def _lacking(cases: "list[Case]", device: "torch.device", compiled: bool) -> dict[str, tuple[str, ...]]:
    """The harmless variations that the samples of each case lack, by case."""
    from parity.calibrate.extend import lacking
    from parity.calibrate.harmless import variations
    from parity.calibrate.populations import CALIBRATION_DRAWS
    from parity.judge.limit_table import TableKey
    from parity.judge.registry import device_of, load_registry
    from parity.runs.environment import fingerprint
    from parity.runs.places import limits_path

    registry, where = load_registry(limits_path()), device_of(fingerprint(device))
    return {
        case.id: lacking(
            registry, TableKey(case.id, where), variations(CALIBRATION_DRAWS, case.reference, compiled, device)
        )
        for case in cases
    }


def _again(cases: list[str] | None, reason: str, json: bool) -> int:
    from parity.judge.proposal import rederived
    from parity.judge.registry import load_registry, save_registry
    from parity.report.tables import draw_changes
    from parity.runs.places import form_limits_paths, limits_path
    from parity.trace.atomic import changing

    said = []
    for path in (limits_path(), *form_limits_paths()):
        with changing(path):
            old = load_registry(path)
            if path != limits_path() and not any(cases is None or key.case in cases for key in old.cases):
                continue
            proposal = rederived(old, cases)
            said += _document(proposal)
            if not json:
                draw_changes(out, proposal.changes)
            save_registry(path, proposal.accept(_reason(proposal, reason)))
    if json:
        out.document({"limits": {"changes": said}})
    return 0


def _reason(proposal: "Proposal", given: str) -> str:
    """The reason to write limits with: as given, else asked for at a terminal where one is looser than before."""
    count = len(proposal.loosened())
    if given or not count or not (sys.stdin.isatty() and err.is_terminal):
        return given  # a proposal refuses to loosen without one
    err.print(f"{count} limits would let more pass than before. Why? Nothing is written without a reason.")
    return sys.stdin.readline().strip()


def _document(proposal: "Proposal") -> list[Any]:
    from parity.trace.atomic import plain

    changes = [{**msgspec.to_builtins(change), "where": str(change.where)} for change in proposal.changes]
    return [plain(change) for change in changes]


def _default_cases() -> list[str]:
    from parity.runs.places import case_folders

    return [folder.name for folder in case_folders() if folder.name.startswith(f"{PRESET}_")]


def _say(text: str) -> None:
    err.print(text)


def _baselines(files: "WeightsFolder", cases: "list[Case]", command: str, reason: str, json: bool) -> list[Any]:
    from parity.calibrate.baselines import measure_baselines, update_all
    from parity.judge.perf import load_perf_registry, save_perf_registry
    from parity.report.tables import draw_perf_changes
    from parity.runs.places import own_baselines_path
    from parity.trace.atomic import changing

    path = own_baselines_path()
    measured = [one for case in cases for one in measure_baselines(files, case, command, _say)]
    with changing(path):
        old = load_perf_registry(path)
        new, changes = update_all(old, measured, reason)
        if not json:
            draw_perf_changes(out, changes)
        save_perf_registry(path, new)
    return [msgspec.to_builtins(change) for change in changes]


def _limits(
    files: "Weights",
    cases: "list[Case]",
    command: str,
    reason: str,
    json: bool,
    compiled: bool,
    device: "torch.device",
    checkpoints: "Mapping[str, CalibrationCheckpoint]",
    sparing: bool,
    extend: bool,
) -> dict[str, Any]:
    from parity.calibrate.case_under_test import here
    from parity.calibrate.extend import extended
    from parity.calibrate.limits import propose_limits
    from parity.calibrate.populations import measure
    from parity.diff.runs import subset_of_case
    from parity.judge.limit_table import TableKey
    from parity.judge.registry import Registry, device_of, load_registry, save_registry
    from parity.report.tables import draw_changes
    from parity.runs.environment import fingerprint
    from parity.runs.golden import golden_of
    from parity.runs.places import limits_path
    from parity.trace.atomic import changing
    from runners.official.files import INSTALLED_RELEASE

    path = limits_path()
    golden = {case.id: golden_of(case.id) for case in cases if case.reference != INSTALLED_RELEASE}
    populations = {
        case.id: measure(
            files,
            case,
            _say,
            golden.get(case.id),
            compiled,
            device=device,
            subset=subset_of_case(case.id),
            checkpoint=checkpoints[case.id],
            sparing=sparing,
        )
        for case in cases
    }
    with changing(path):  # not for the hours before: another process may have calibrated another case
        old = load_registry(path) if path.exists() else Registry()
        if extend:
            proposal = extended(old, populations, here(files, device), command)
        else:
            proposal = propose_limits(old, files, populations, command, device)
        if not json:
            draw_changes(out, proposal.changes)
        accepted = proposal.accept(_reason(proposal, reason))
        save_registry(path, accepted)
    tables = [TableKey(case.id, device_of(fingerprint(device))) for case in cases]
    statuses = [limit.status for table in tables for limit in accepted.cases[table].values()]
    counts = {status: statuses.count(status) for status in ("calibrated", "OVERLAP", "exact")}
    if not json:
        out.print(f"{path}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    return {"counts": counts, "changes": _document(proposal)}
