"""Messages of libraries by `logging` and `warnings`, made printable before any of their handlers writes it.

Transformers, diffusers and the like have handlers and streams of their own, and name in a message what they found in a
file. So the text itself is made printable, where it is put together; who hears it, and where, stays as it was.
"""

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runners.printable import printable, printable_lines


@contextmanager
def printable_messages() -> Iterator[None]:
    """While inside, every record of `logging` and every text of a warning is printable, its line breaks kept."""
    make, form = logging.getLogRecordFactory(), warnings.formatwarning

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        return _printable_record(make(*args, **kwargs))

    def warning(*args: Any, **kwargs: Any) -> str:
        return printable_lines(form(*args, **kwargs))

    logging.setLogRecordFactory(record)
    warnings.formatwarning = warning
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)
        warnings.formatwarning = form


def _printable_record(record: logging.LogRecord) -> logging.LogRecord:
    try:
        said = record.getMessage()
    except Exception:  # arguments that do not fit, which a handler would print as they are
        said = str(record.msg)
    record.msg, record.args = printable_lines(said), ()
    record.name = printable(record.name)
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = printable_lines("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
    if record.stack_info:
        record.stack_info = printable_lines(record.stack_info)
    return record
