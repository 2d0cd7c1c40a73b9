"""One row on its box: reference and engines run by turns, are compared and judged, and everything goes to the store.

This is what `parity suite` does for one case, for any engines. It runs in a process of its own
(`parity.fleet.row_process`) and works in a folder that goes with it; what lasts is in the store when it returns.
"""

import errno
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from parity.calibrate.harmless import oracle_at
from parity.diff.isolated import bound_runs
from parity.explain.explanation import Explanation
from parity.fleet.row import Cell, EngineOfRow, Reference, Row, RowResult
from parity.isolate.saved import save_isolated, steps_to_isolate
from parity.judge.perf import load_perf_registry
from parity.judge.timed import judge_timed, timed_run
from parity.judge.verdict import Verdict, gate_exit_code
from parity.matrix.brought import bring_case, bring_project, bring_weights
from parity.matrix.engine_run import make_run, official_as_engine
from parity.matrix.ladder import rung_of
from parity.matrix.official_run import OfficialRun, stored_run
from parity.report.explanation import first_place
from parity.report.page import write_page
from parity.report.page_content import content_of
from parity.runs.environment import source_hash
from parity.runs.execute import device_named
from parity.runs.folder import Run, read_run
from parity.runs.places import baselines_path
from parity.runs.store import Store, StoreEntry
from parity.suite.suite import compare_line
from parity.trace.atomic import write_json_atomic
from runners.case import Case
from runners.errors import ParityError, RegistryError, RunError
from runners.files import HeldFile
from runners.forge.weights import ForgedWeights
from runners.official.files import INSTALLED_RELEASE
from runners.protocol import RunOptions
from runners.strict import Strict
from runners.weights import WeightsFolder

PROGRAM: Final = "parity.matrix.row:run_row"
MOST_OF_A_REASON: Final = 600  # characters
MAX_PAGE_BYTES: Final = 64 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class RowOrder(Strict, frozen=True, kw_only=True):
    """An order to a box to do a row."""

    row: Row
    key: str  # of the row, as the driver works it out
    store: str  # URL
    run: str  # of the ledger that asks, which names the record of the result


@dataclass(kw_only=True)
class _EngineRuns:
    """The runs of one engine so far; a text is what kept it from one."""

    engine: EngineOfRow
    runs: list[Run] = field(default_factory=list)
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class _Against:
    """The official run that engines are held to, with what is known of it, and the oracle's if that is wanted."""

    run: Run
    made: Reference
    oracle: Run | None


def record_name(run: str, key: str) -> str:
    """The name of the record that a row leaves in the store."""
    return f"rows/{run}/{key}"


def run_row(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """Run a row. Returns: a `RowResult` that is done, as JSON data; the same lies in the store.

    Raises: ParityError for what concerns the whole row: the case, weights, the reference, the store.
    """
    order = msgspec.convert(request, RowOrder, strict=True)
    row, store, start_s = order.row, Store(order.store), time.monotonic()
    if row.code != source_hash() or row.key != order.key:
        raise RunError("This box has another version of parity than the driver; install the same on both.")
    bring_project(row, store, place)
    case = bring_case(row, store, place)
    device = device_named(row.device.device)
    weights = bring_weights(row, store, device)
    oracle = _oracle_run(row, case, weights, device, place) if row.oracle else None  # first: it wants most memory
    reference, made, engines = _run_all(row, case, weights, device, store, place)
    against = _Against(run=reference, made=made, oracle=oracle)
    cells = tuple(_judged(row, one, case, weights, device, against, store, place) for one in engines)
    environment = reference.manifest.environment
    result = RowResult(
        key=row.key,
        case=row.case_id,
        device=row.device.name,
        state="done",
        took_s=time.monotonic() - start_s,
        box=str(environment.get("device_name") or environment.get("cpu")),
        reference=made,
        cells=cells,
    )
    store.put_record(record_name(order.run, row.key), msgspec.json.encode(result).decode())
    found: dict[str, Any] = msgspec.to_builtins(result)
    return found


def _run_all(
    row: Row, case: Case, weights: WeightsFolder | ForgedWeights, device: torch.device, store: Store, place: Path
) -> tuple[Run, Reference, list[_EngineRuns]]:
    """Reference and engines by turns, as often as the row says; a reference that the store has is not run.

    Where times are held to baselines, each turn is one without taps, after one with them that is judged.
    """
    official, code = OfficialRun(row, case, weights, device, store), official_as_engine(row)
    with official.alone():
        found = official.fetched(place / "official")
        if found is None:
            found = official.keep(make_run(row, code, case, weights, device, place / "official"))
    reference = read_run(place / "official")
    engines = [_EngineRuns(engine=one) for one in row.engines]
    owed = len(found.untapped_s) < row.repeats if row.perf else not found.reused
    for turn in range(row.repeats + row.perf):
        timed = row.perf and turn > 0
        if turn and owed:
            again = make_run(row, code, case, weights, device, place / f"official_{turn}", timed=timed)
            found = official.keep_times(found, [again.manifest.end_to_end_s], untapped=timed)
        for number, one in enumerate(engines):
            if one.failed:
                continue
            try:
                out = place / f"engine_{number}_{turn}"
                one.runs.append(make_run(row, one.engine, case, weights, device, out, timed=timed))
            except OSError as error:
                if error.errno in _FULL:  # that is the box's fault, and another time it goes
                    raise
                one.failed = _reason(error)
            except Exception as error:  # an engine's fault is a cell's, not the row's
                one.failed = _reason(error)
    return reference, found, engines


def _oracle_run(
    row: Row, case: Case, weights: WeightsFolder | ForgedWeights, device: torch.device, place: Path
) -> Run | None:
    """The oracle's run, of nothing but outputs; None of weights kept in e4m3, which have none.

    Raises: ParityError if it cannot be made: twice the memory is wanted.
    """
    if case.quantization is not None:
        return None
    engine, oracle = EngineOfRow(label="oracle", runner="native"), oracle_at(case.reference)
    with oracle.apply():
        return make_run(row, engine, case, weights, device, place / "oracle", timed=True, dtype=oracle.dtype)


def _judged(
    row: Row,
    one: _EngineRuns,
    case: Case,
    weights: WeightsFolder | ForgedWeights,
    device: torch.device,
    against: _Against,
    store: Store,
    place: Path,
) -> Cell:
    """The cell of an engine: compared, judged, explained, and put into the store."""
    reference, made = against.run, against.made
    if one.failed:
        return Cell(engine=one.engine.label, code=2, why=one.failed)
    first, clocked = one.runs[0], one.runs[1:] if row.perf else one.runs
    times_s = tuple(run.manifest.end_to_end_s for run in clocked)
    of_reference_s = made.untapped_s if row.perf else made.times_s
    files = stored_run(first, store)
    try:
        isolated = _isolated(row, one, case, weights, device, reference, place)
        line = compare_line(one.engine.label, reference, first, isolated)
    except ParityError as error:  # runs that may not be compared
        return Cell(engine=one.engine.label, code=2, why=_reason(error), times_s=times_s, files=files)
    perf, perf_code = _speed(row, clocked)
    code = gate_exit_code(line.code, perf_code)
    numbers = place / "numbers.json"
    write_json_atomic(numbers, line.found.document())
    return Cell(
        engine=one.engine.label,
        code=code,
        why=line.why or (perf if code else ""),
        first_tap=_first_tap(line.taps) if line.code else "",
        first_place=first_place(line.taps) if line.taps is not None and line.code else "",
        profile=line.verdict.profile if isinstance(line.verdict, Verdict) else "",
        taps_equal=0 if line.taps is None else line.taps.traces.compared - line.taps.traces.bit_different,
        taps_compared=0 if line.taps is None else line.taps.traces.compared,
        times_s=times_s,
        speed_ratio=statistics.median(of_reference_s) / statistics.median(times_s) if all(times_s) else None,
        peak_bytes=first.manifest.peak_bytes,
        rung=rung_of(line, reference, first, against.oracle),
        same_bits_again=_same_bits(one.runs),
        perf=perf,
        files=files,
        numbers=store.put(HeldFile(numbers)),
        report=_page(row, code, reference, first, isolated, store, place),
    )


def _reason(error: BaseException) -> str:
    said = str(error) if isinstance(error, ParityError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:MOST_OF_A_REASON] or type(error).__name__


def _isolated(
    row: Row,
    one: _EngineRuns,
    case: Case,
    weights: WeightsFolder | ForgedWeights,
    device: torch.device,
    reference: Run,
    place: Path,
) -> Path | None:
    """Save what each part of native adds by itself, where the matrix asks for it and it can be told."""
    manifest = one.runs[0].manifest
    if not row.isolate or (manifest.runner, manifest.tier) != ("native", "exact") or one.engine.python:
        return None
    if case.reference != INSTALLED_RELEASE:
        return None
    path = place / f"isolated_{one.engine.label.replace(':', '_')}.json"
    steps, runs = steps_to_isolate(case, ()), bound_runs([reference], one.runs[0])
    save_isolated(path, weights, case, RunOptions(device=device), steps, runs)
    return path


def _speed(row: Row, runs: list[Run]) -> tuple[str, int]:
    """The verdict of this machine's baselines on the times, and its exit code."""
    if not row.perf:
        return "", 0
    try:
        found = judge_timed(load_perf_registry(baselines_path()), [timed_run(run.manifest) for run in runs])
    except RegistryError as error:
        return _reason(error), 2
    return found.outcome if found.outcome == "ok" else f"{found.outcome}: {found.reason}", found.exit_code


def _first_tap(taps: Explanation | None) -> str:
    if taps is None:
        return ""
    if taps.divergence.roots:
        return taps.divergence.roots[0].tap
    return taps.bits.firsts[0] if taps.bits.firsts and taps.bits.conclusive else ""


def _same_bits(runs: list[Run]) -> bool | None:
    """True if every repeat has the outputs of the first, bit for bit; None if there is none."""
    if len(runs) == 1:
        return None
    first, *others = (vars(run.outputs()) for run in runs)
    return all(_equal(value, other[name]) for other in others for name, value in first.items())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def _page(
    row: Row, code: int, reference: Run, candidate: Run, isolated: Path | None, store: Store, place: Path
) -> StoreEntry | None:
    """The page of two runs, in the store; None where the matrix wants none of what is at parity."""
    if row.reports == "failing" and not code:
        return None
    path = place / "page.html"
    write_page(path, content_of(reference, candidate, isolated=isolated))
    return store.put(HeldFile(path, max_bytes=MAX_PAGE_BYTES))
