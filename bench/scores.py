"""Mutation scores of one case, measured in pieces: `parity mutate --defect`, or `--share`, each into a file of its own.

Nothing is measured here. A defect or a harmless run that several pieces have tried counts once, as the last one says;
of several pieces, a defect that is no longer in the catalogue does not count.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from parity.defects.catalogue import CATALOGUE
from parity.defects.variant import AS_IS

MADE_FOR_COLUMNS: Final = ("case", "caught by outputs", "and drift of taps", "located", "harmless runs stopped")


def joined_scores(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One score for each case whose limits judged, of all its pieces, as `parity mutate --out` would have saved it."""
    pieces: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        pieces.setdefault(document["limits_of"], []).append(document)
    return [of_case[0] if len(of_case) == 1 else _joined(of_case) for of_case in pieces.values()]


def made_for_one_case(score: Mapping[str, Any]) -> bool:
    """True if all its defects were tried on the case at hand as it is: that one was made for them."""
    return {row.get("case") for row in score["rows"]} == {AS_IS.name}


def made_for_row(score: Mapping[str, Any]) -> tuple[str, ...]:
    """Such a score in a row of its own, as MADE_FOR_COLUMNS has it."""
    caught, stopped = score["killed_by_levels"], score["false_alarms_by_levels"]["outputs+drift"]
    return (
        score["limits_of"],
        *(f"{caught[level]} of {score['defects']}" for level in ("outputs", "outputs+drift")),
        f"{score['located']} of {score['killed']}",
        f"{stopped} of {score['benign_runs']}",
    )


def _joined(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = {defect.id for defect in CATALOGUE}
    rows = list({row["id"]: row for piece in pieces for row in piece["rows"] if row["id"] in known}.values())
    harmless = list({(row["id"], row["case"]): row for piece in pieces for row in piece["benign_rows"]}.values())
    counted = [row for row in rows if not row["equivalent"]]
    killed = [row for row in counted if row["killed"]]
    levels = list(pieces[0]["killed_by_levels"])
    return {
        "kind": pieces[0]["kind"],
        "limits_of": pieces[0]["limits_of"],
        "date": max(piece["date"] for piece in pieces),
        "environment": pieces[-1]["environment"],
        "environments": [piece["environment"] for piece in pieces],
        "defects": len(counted),
        "killed": len(killed),
        "located": sum(row["located"] for row in killed),
        "killed_by_levels": {level: sum(row["killed_by"][level] for row in counted) for level in levels},
        "false_alarms_by_levels": {level: sum(row["killed_by"][level] for row in harmless) for level in levels},
        "equivalents": [row["id"] for row in rows if row["equivalent"]],
        "benign_runs": len(harmless),
        "kills_by_level": {"bits": sum(row["killed_by_bits"] for row in counted)},
        "rows": rows,
        "benign_rows": harmless,
    }
