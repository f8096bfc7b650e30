import multiprocessing
import os
import random
import signal
from typing import Any

import numpy as np
import pytest

from mnq.models.workers import in_workers
from mnq.ops.errors import EnvironmentLack, InputError

torch = pytest.importorskip("torch")


class Numbers:
    """Batches that are their numbers; in another process, and for number 2, something happens."""

    def __init__(self, signal_: int | None = None, error: Exception | None = None) -> None:
        self.signal = signal_
        self.error = error
        self.home = os.getpid()

    def __getitem__(self, number: int) -> Any:
        if number == 2 and self.signal is not None and os.getpid() != self.home:
            os.kill(os.getpid(), self.signal)
        if number == 2 and self.error is not None:
            raise self.error
        return torch.tensor([number]), number


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(workers: int) -> None:
    found = list(in_workers(Numbers(), range(1, 7), workers))
    assert [(int(tensor), number) for tensor, number in found] == [(n, n) for n in range(1, 7)]
    assert list(in_workers(Numbers(), range(3, 3), workers)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_state_is_left_alone(workers: int) -> None:
    def state() -> list[Any]:
        words = np.random.get_state()[1].tolist()
        return [random.getstate(), words, torch.get_rng_state().tolist()]

    before = state()
    batches = in_workers(Numbers(), range(3), workers)
    next(batches)
    between = state()
    list(batches)
    assert before == between == state()


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_mnq_arrive_as_they_are(workers: int) -> None:
    batches = in_workers(Numbers(error=InputError("images: one line")), range(4), workers)
    assert [number for _, number in (next(batches), next(batches))] == [0, 1]
    with pytest.raises(InputError, match=r"^images: one line$"):
        next(batches)


@pytest.mark.parametrize("kind", [RuntimeError, OSError])
def test_other_errors_are_not_taken_for_a_lost_worker(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"(?s)Traceback .* a bug"):
        list(in_workers(Numbers(error=kind("a bug")), range(4), 1))
    with pytest.raises(kind, match="a bug"):
        list(in_workers(Numbers(error=kind("a bug")), range(4), 0))


def test_dead_worker_is_an_environment_lack() -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    batches = in_workers(Numbers(signal.SIGKILL), range(2, 6), 1)
    with pytest.raises(EnvironmentLack, match=r"expected 1 worker .*; give fewer") as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    # Only where a batch is asked for: torch's handler would raise anywhere.
    assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_worker_that_dies_with_a_batch_is_an_environment_lack(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What torch raises depends on when; these two were seen."""

    class Broken:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise error

        def _shutdown_workers(self) -> None:
            pass

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", lambda self: Broken())
    with pytest.raises(EnvironmentLack, match="found one lost"):
        list(in_workers(Numbers(), range(4), 1))


def test_workers_ignore_interrupts() -> None:
    batches = in_workers(Numbers(signal.SIGINT), range(4), 1)
    assert [number for _, number in batches] == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [None, InputError("x"), OSError("x")])
def test_workers_end_with_the_iteration(error: Exception | None) -> None:
    """Also where it is abandoned, while the error's traceback still refers to it."""
    batches = in_workers(Numbers(error=error), range(9), 2)
    try:
        for _, number in batches:
            if number == 4:
                break
    except (InputError, OSError) as raised:
        assert raised.__traceback__ is not None
        assert multiprocessing.active_children() == []
    batches.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
