"""Batches made by other processes, whose errors and deaths arrive as mnq's own errors.

Importing this module is light; torch is imported when batches are made.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, Protocol

from mnq.ops.errors import EnvironmentLack, MnqError

__all__ = ["in_workers"]


class Batches(Protocol):
    """Batches by number, made on demand; picklable, for systems that do not fork."""

    def __getitem__(self, number: int, /) -> Any:
        """Make one batch, the same one in any process."""


class _Careful:
    """A data set that returns mnq's errors: raised in a worker they arrive as tracebacks."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, number: int) -> Any:
        try:
            return self._batches[number]
        except MnqError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_interrupts(worker: int) -> None:
    # Ctrl-C reaches the whole group; the main process ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_workers(batches: Batches, numbers: range, workers: int) -> Iterator[Any]:
    """Yield the batches with these numbers, in order, made in `workers` processes; 0: in this one.

    The global random state is neither used nor changed. Raises what a batch raises; one of mnq's
    errors arrives as it is. EnvironmentLack if a process dies.
    """
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Careful(batches),  # type: ignore[arg-type]
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # else the workers' seed is drawn from the global one
    )
    iterator: Any = None
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        iterator = iter(loader)
        # torch's handler would raise between any two instructions of the training. Without it
        # the iterator looks after its workers, every five seconds that it waits for one.
        if handler is not None and signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler)
        for batch in iterator:
            if isinstance(batch, MnqError):
                raise batch
            yield batch
    except (RuntimeError, OSError, EOFError) as error:
        # What goes wrong here, and not in a worker, is talking to a worker that was killed (for
        # want of memory, most often), or handing over memory.
        if workers == 0 or str(error).startswith("Caught "):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise EnvironmentLack(
            f"images: expected {workers} worker processes to make batches, found one lost "
            f"({reason}); give fewer with --workers, or more (shared) memory"
        ) from error
    finally:
        # An error's traceback would keep it, and the next workers inherit and end it once more.
        if workers and iterator is not None:
            iterator._shutdown_workers()
