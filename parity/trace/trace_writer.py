"""The writer: listens to taps, sketches them where they lie, and leaves a trace.

Axes: N tap of one batch, K bucket.

Sketches gather in a batch on the tap's own device. When the first two parts of the name change (`denoise/003` to
`denoise/004`: a step has ended) or the batch is full, it travels to the host in the background and a new batch begins;
a batch that has arrived is appended to `trace.journal`. So nothing waits for the device inside a step, the device holds
a fraction of a megabyte for each thousand taps, and a crashed run keeps the steps it had finished. `close` turns the
journal into `trace.safetensors`.

The taps of one device are taken to come from one stream.
"""

from collections import deque
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Self, cast

import torch
from torch import Tensor

from parity.taps.pattern import chosen
from parity.trace.file import TRACE_JOURNAL, SketchTable, encode, journal_table, read_trace, write_trace
from parity.trace.full_tensors import TENSORS_FILE, TENSORS_JOURNAL, append_tensor, assemble_tensors
from parity.trace.journal import JournalWriter
from parity.trace.sketch import (
    DEFAULT_BUCKETS,
    FLOAT_STATISTICS,
    INTEGER_STATISTICS,
    dtype_name,
    require_buckets,
    sketch_into,
)
from runners.errors import RunError
from runners.real_tokens import PromptTokens, without_left_padding

Keep = Literal["sketch", "full"]
NO_WINDOWS: Final[PromptTokens] = MappingProxyType({})
CAPACITY: Final = 2048  # taps; 0.6 MB at 64 buckets


class _Batch:
    """Sketches of taps of one step on one device, on their way to the host."""

    def __init__(self, buckets: int, device: torch.device, rows: int = CAPACITY) -> None:
        self.device = device
        self._rows: list[tuple[str, tuple[int, ...], str]] = []  # one list: an interrupt cannot fall between columns
        self._floats = torch.empty(rows, buckets + FLOAT_STATISTICS, dtype=torch.float32, device=device)
        self._integers = torch.empty(rows, INTEGER_STATISTICS, dtype=torch.int64, device=device)
        self._here = self._floats, self._integers  # where they were computed, for copies
        self._arrived: torch.Event | None = None

    @property
    def full(self) -> bool:
        return len(self._rows) == CAPACITY

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, name: str, tensor: Tensor) -> None:
        row = len(self._rows)
        sketch_into(tensor, self._floats[row], self._integers[row])
        self._rows.append((name, tuple(tensor.shape), dtype_name(tensor.dtype)))

    def copy(self, name: str, other: "_Batch", row: int) -> None:
        """Add what row `row` of a batch of the same device holds, under another name."""
        for mine, theirs in zip(self._here, other._here, strict=True):
            mine[len(self._rows)].copy_(theirs[row])
        self._rows.append((name, *other._rows[row][1:]))

    def as_of(self, earlier: str, again: str) -> "_Batch":
        """The rows as they are now, under another prefix, in a batch of its own."""
        batch = _Batch(self._floats.shape[1] - FLOAT_STATISTICS, self.device, rows=0)
        batch._floats, batch._integers = (rows[: len(self)].clone() for rows in self._here)
        batch._rows = [(f"{again}{name.removeprefix(earlier)}", shape, dtype) for name, shape, dtype in self._rows]
        return batch

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self._rows]

    def send(self) -> None:
        """Let the rows begin their way to the host; does not wait."""
        self._floats, self._integers = self._floats[: len(self._rows)], self._integers[: len(self._rows)]
        if self.device.type == "cpu":
            return
        self._floats, self._integers = _sent(self._floats), _sent(self._integers)
        self._arrived = torch.Event(self.device)
        self._arrived.record(torch.accelerator.current_stream(self.device))

    def arrived(self) -> bool:
        return self._arrived is None or self._arrived.query()

    def table(self, pattern: str | None) -> SketchTable:
        """Wait for the rows to arrive and return them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return SketchTable(
            buckets=self._floats.shape[1] - FLOAT_STATISTICS,
            pattern=pattern,
            names=[name for name, _, _ in self._rows],
            shapes=[shape for _, shape, _ in self._rows],
            dtypes=[dtype for _, _, dtype in self._rows],
            floats=self._floats,
            integers=self._integers,
        )


def _sent(rows: Tensor) -> Tensor:
    host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    return host.copy_(rows, non_blocking=True)


class TraceWriter:
    """A listener for `runners.tap.listening`; leaves `trace.safetensors` in `folder`.

        with TraceWriter(folder) as writer, listening(writer):
            ...

    Args:
        folder: exists and holds no trace yet.
        pattern: which taps to record, as `parity.taps.pattern` reads it; None records all. A pattern that
            matches nothing leaves an empty trace, which no gate accepts.
        keep: "sketch", or "full" for the whole tensors of those taps too, in `tensors.safetensors`; that waits for the
            device at every tap.
        buckets: K of the sketches, a power of two from 16 to 1024.
        prompt_tokens: of prompts that may be tapped in a window padded on the left.
    Raises: ConfigError for `buckets`; RunError if a journal exists, a tap is heard twice or its name is malformed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        pattern: str | None = None,
        keep: Keep = "sketch",
        buckets: int = DEFAULT_BUCKETS,
        prompt_tokens: PromptTokens = NO_WINDOWS,
    ) -> None:
        require_buckets(buckets)
        self._folder, self._pattern, self._buckets = folder, pattern, buckets
        self._prompt_tokens = prompt_tokens
        self.request: Final[dict[str, Any]] = {"pattern": pattern, "keep": keep, "prompt_tokens": dict(prompt_tokens)}
        self._journal = JournalWriter(folder / TRACE_JOURNAL)
        self._journal.append(encode(SketchTable(buckets=buckets, pattern=pattern)))  # a trace before the first tap too
        self._tensors = JournalWriter(folder / TENSORS_JOURNAL) if keep == "full" else None
        self._heard: set[str] = set()
        self._of_step: dict[str, tuple[_Batch, int]] = {}  # where the sketches of this step's taps are
        self._capture: list[_Batch] | None = None  # while a graph is captured: batches that its replays fill
        self._step = ""
        self._batch: _Batch | None = None
        self._on_the_way: deque[_Batch] = deque()

    def __call__(self, name: str, tensor: Tensor) -> None:
        """Record one tap, unless the pattern leaves it out."""
        if not chosen(name, self._pattern):
            return
        tensor = without_left_padding(name, tensor, self._prompt_tokens)
        self._batch_for(name, tensor.device).add(name, tensor)
        if self._tensors is not None:
            append_tensor(self._tensors, name, tensor)

    @property
    def repeats(self) -> bool:
        """True if every tap of a step is sketched, and no more than that: whole tensors are not here any more."""
        return self._tensors is None and self._pattern in (None, "*")

    def repeat(self, earlier: str, again: str) -> None:
        """Record the taps of this step named or prefixed `earlier` once more, under `again`, without their tensors."""
        for name, (batch, row) in list(self._of_step.items()):
            if name == earlier or name.startswith(f"{earlier}/"):
                copied = f"{again}{name.removeprefix(earlier)}"
                self._batch_for(copied, batch.device).copy(copied, batch, row)

    @property
    def captures(self) -> bool:
        """True for sketches; a whole tensor is written to a file, which no graph does."""
        return self._tensors is None

    def begin_capture(self) -> None:
        """From here on, taps go into batches that replays of a graph will fill."""
        self._send()
        self._of_step.clear()
        self._capture = []

    def end_capture(self) -> object:
        """The batches of the capture."""
        captured, self._capture = self._capture, None
        self._of_step.clear()
        self._step = ""
        return captured

    def replayed(self, captured: object, earlier: str, again: str) -> None:
        """Record what a replay has left in the batches of its capture, under another prefix."""
        self._send()
        for batch in cast(list[_Batch], captured):
            filled = batch.as_of(earlier, again)
            for name in filled.names:
                self._require_new(name)
            filled.send()
            self._on_the_way.append(filled)

    def _batch_for(self, name: str, device: torch.device) -> _Batch:
        """The batch whose next row a tap gets. Raises: RunError if the tap was heard before."""
        if self._capture is not None:
            if not self._capture or self._capture[-1].full:
                self._capture.append(_Batch(self._buckets, device))
            self._of_step[name] = self._capture[-1], len(self._capture[-1])
            return self._capture[-1]
        self._require_new(name)
        step = "/".join(name.split("/", 2)[:2])
        batch = self._batch
        if step != self._step:
            self._of_step.clear()
        if batch is None or batch.full or batch.device != device or step != self._step:
            self._send()
            batch = self._batch = _Batch(self._buckets, device)
            self._step = step
        self._of_step[name] = batch, len(batch)
        return batch

    def _require_new(self, name: str) -> None:
        if name in self._heard or not name or "\n" in name:
            raise RunError(
                f"Tap {name!r} was heard twice, or its name is empty or of two lines. Give each tap one name."
            )
        self._heard.add(name)

    def adopt(self, folder: Path) -> None:
        """Take over what a writer of another process, asked for `request`, has left in `folder`, finished or not.

        Whole tensors are moved, and only those of a finished trace. Raises: RunError if there is no trace, or it is
        damaged or of taps that were heard here too; the second is said by `close`.
        """
        self._journal.append(encode(read_trace(folder).part(self._pattern)))
        if self._tensors is not None and (folder / TENSORS_FILE).is_file():
            self._tensors.close()
            self._tensors.path.unlink()
            self._tensors = None
            (folder / TENSORS_FILE).replace(self._folder / TENSORS_FILE)

    def close(self, *, complete: bool = True) -> None:
        """Wait for what is on its way and write the trace; `complete` says whether the run came to its end."""
        with self._journal, self._tensors or nullcontext():
            self._send()
            while self._on_the_way:
                self._append(self._on_the_way.popleft())
        table = journal_table(self._journal.path)
        table.complete = table.complete and complete
        write_trace(self._folder, table)
        self._journal.path.unlink()
        if self._tensors is not None:
            assemble_tensors(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(complete=False)
        except Exception as failed:  # what ended the run is what its caller must hear
            error.add_note(f"The trace of the run could not be closed: {failed}")

    def _send(self) -> None:
        """Send the batch on its way, and write down those that have arrived meanwhile."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.send()
            self._on_the_way.append(batch)
        while self._on_the_way and self._on_the_way[0].arrived():
            self._append(self._on_the_way.popleft())

    def _append(self, batch: _Batch) -> None:
        self._journal.append(encode(batch.table(self._pattern)))
