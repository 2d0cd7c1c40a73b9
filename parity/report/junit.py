"""Verdicts as JUnit XML, which CI systems show: one test case for each group of metrics (`frames`, `audio`, ...).

A group fails if a metric of it does, each finding is a failed test case of its own, and what could not be judged is an
error, never a skip. Each of these begins with the first line of the explanation: CI systems show them one by one. The
message of a group names its worst metric, its text all that are beyond their limits, worst first; metrics within theirs
are the group's output.
"""

import re
import xml.etree.ElementTree as ET  # writes only; nothing is parsed here
from collections.abc import Iterable
from pathlib import Path

from parity.fleet.grid import Grid
from parity.judge.perf import PerfVerdict
from parity.report.matrix import STATES, cell_words
from parity.report.words import GateWords, RowWords, bound, number, perf_sentence
from parity.trace.atomic import write_bytes_atomic
from runners.printable import printable

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2 (Char)


def verdict_suite(said: GateWords) -> ET.Element:
    """The test suite of a parity verdict."""
    verdict, why = said.verdict, [said.why] if said.why else []
    suite = ET.Element("testsuite", name=_xml(f"parity {verdict.case} ({verdict.profile})"))
    properties = ET.SubElement(suite, "properties")
    for name, value in (("judged by", said.judged_by), *(line.split(": ", 1) for line in said.sides)):
        ET.SubElement(properties, "property", name=name, value=_xml(value))
    groups: dict[str, list[RowWords]] = {}
    for one in said.rows:
        groups.setdefault(one.row.metric.split(".")[0], []).append(one)
    for group, rows in groups.items():
        case = _case(suite, verdict.case, group)
        failed = [one for one in said.worst if one in rows]
        if failed:
            row = failed[0].row
            message = f"{len(failed)} of {len(rows)} metrics beyond their limit, the worst {row.metric}: "
            message += f"{number(row.value, row.unit)}, wanted {bound(row)}"
            _problem(case, "failure", message, [*why, *(one.sentence for one in failed)])
        if within := [one.sentence for one in rows if not one.row.failed]:
            ET.SubElement(case, "system-out").text = _xml("\n".join(within))
    for failure in verdict.failures:
        case = _case(suite, verdict.case, f"{failure.code}: {failure.where}")
        _problem(case, "failure", failure.code, [*why, failure.message])
    if verdict.outcome == "undecided":
        _problem(_case(suite, verdict.case, "verdict"), "error", said.parity, [*why, *said.notes])
    return _counted(suite)


def perf_suite(perf: PerfVerdict) -> ET.Element:
    """The test suite of a speed verdict: one test case for each quantity."""
    suite = ET.Element("testsuite", name=_xml(f"speed {perf.title}"))
    for row in perf.rows:
        case = _case(suite, perf.title, row.quantity)
        if row.outcome not in ("ok", "unjudged"):
            kind = "error" if row.outcome == "inconclusive" else "failure"
            _problem(case, kind, row.outcome, [perf_sentence(row)])
    if perf.outcome == "not_comparable":
        _problem(_case(suite, perf.title, "comparable"), "error", "not comparable", [perf.reason])
    return _counted(suite)


def matrix_suites(grid: Grid) -> list[ET.Element]:
    """A test suite for each device of a matrix: one test case for each cell, one for a row that did not end."""
    suites: dict[str, ET.Element] = {}
    for row in grid.rows:
        suite = suites.get(row.device)
        if suite is None:
            suite = suites[row.device] = ET.Element("testsuite", name=_xml(f"parity {grid.name} {row.device}"))
        if row.state != "done":
            message = f"the row {STATES[row.state]}"
            _problem(_case(suite, row.case, "row"), "error", message, [row.reason])
        for cell, since in zip(row.cells, row.since, strict=True):
            case = _case(suite, row.case, cell.engine)
            case.set("time", f"{sum(cell.times_s):.3f}")
            if cell.code:
                kind = "failure" if cell.code == 1 else "error"
                _problem(case, kind, cell_words(cell, since), [cell.why])
    return [_counted(suite) for suite in suites.values()]


def error_suite(case: str, message: str, why: str = "") -> ET.Element:
    """The test suite of a gate that could not judge; `why` is the first line of the explanation, where there is one."""
    suite = ET.Element("testsuite", name=_xml(f"parity {case}"))
    _problem(_case(suite, case, "gate"), "error", "could not judge", [*([why] if why else []), message])
    return _counted(suite)


def write_junit(path: Path, suites: Iterable[ET.Element]) -> None:
    """Write suites into one file, whole or not at all."""
    root = ET.Element("testsuites")
    root.extend(suites)
    ET.indent(root)
    write_bytes_atomic(path, ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _case(suite: ET.Element, of: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=_xml(of), name=_xml(name))


def _problem(case: ET.Element, kind: str, message: str, details: Iterable[str]) -> None:
    ET.SubElement(case, kind, message=_xml(message), type=kind).text = _xml("\n".join(details))


def _counted(suite: ET.Element) -> ET.Element:
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    return suite


def _xml(text: str) -> str:
    """The text without what XML cannot hold; the writer itself escapes the rest."""
    lines = (printable(line) for line in text.split("\n"))
    return _NOT_XML.sub("\ufffd", "\n".join(lines))
