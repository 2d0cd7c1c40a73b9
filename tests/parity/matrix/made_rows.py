"""Rows that tests make up, of an engine that takes no time: light, so that a process to fork them from begins at once.

The request of a row is the driver's own; what its engine does is said by the options of the engine.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from parity.runs.store import Store


def instant(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """A row that comes to what its engine's options say, after a while, and leaves its result in the store."""
    row = request["row"]
    options = row["engines"][0].get("options", {})
    _count(options, request["key"])
    time.sleep(float(options.get("seconds", 0)))
    if options.get("killed") == row["case"]["id"]:
        os.kill(os.getpid(), signal.SIGKILL)
    cells = [{"engine": one["label"], "code": int(options.get("code", 0))} for one in row["engines"]]
    result = {
        "schema_version": 1,
        "key": request["key"],
        "case": row["case"]["id"],
        "device": row["device"]["name"],
        "state": "done",
        "took_s": 0.25,
        "cells": cells,
    }
    Store(request["store"]).put_record(f"rows/{request['run']}/{request['key']}", json.dumps(result))
    return result


def _count(options: dict[str, str], key: str) -> None:
    """Leave a mark of each time that a row began."""
    if "marks" in options:
        number = len(list(Path(options["marks"]).glob(f"{key}.*")))
        (Path(options["marks"]) / f"{key}.{number}").touch()
