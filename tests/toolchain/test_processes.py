"""One process, or those of torchrun; what happens when one of them is lost.

Two real processes are in test_train_shared.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed

from mnq.ops.errors import EnvironmentLack, InputError
from mnq.toolchain.processes import Process, process

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield
    assert not distributed.is_initialized()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """This process as the second of two; the back ends that were asked for."""
    asked: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(distributed, "init_process_group", asked.append)
    return asked


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_torchrun_there_is_one_process(device: str) -> None:
    with process(device) as here:
        assert here == Process(0, 1, torch.device("cpu"))
        assert here.first
        assert not distributed.is_initialized()


def test_with_torchrun_every_process_has_its_number(started: list[str]) -> None:
    with process("auto") as here:
        assert here == Process(1, 2, torch.device("cpu"))
        assert not here.first
    assert started == ["gloo"]


def test_a_gpu_that_is_not_there(started: list[str]) -> None:
    with pytest.raises(EnvironmentLack, match="CUDA GPU for --device cuda, found none; "):
        process("cuda").__enter__()
    assert not started


def test_every_process_of_a_machine_has_its_own_gpu(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with process("auto") as here:
        assert here.device == torch.device("cuda", 1)
    with process("cpu") as here:
        assert here.device == torch.device("cpu")
    assert (started, chosen) == (["nccl", "gloo"], [torch.device("cuda", 1)])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"{GLOO} [127.0.0.1]:4711\nException raised from ..."),
        RuntimeError("Application timeout caused pair closure (gloo)"),
        distributed.DistBackendError("NCCL communicator was aborted on rank 1"),
        distributed.DistStoreError("Timed out after 1801 seconds waiting for clients"),
        distributed.DistNetworkError(""),
    ],
)
def test_a_lost_process_is_named_with_what_to_do(started: list[str], error: Exception) -> None:
    with pytest.raises(EnvironmentLack) as caught, process("cpu"):
        raise error
    text = str(caught.value)
    assert "expected all 2 processes, found one lost (" in text
    assert ((str(error) or type(error).__name__).splitlines()[0]) in text
    assert text.endswith("start them again with --resume and the last checkpoint")
    assert "\n" not in text and caught.value.exit_status == 3


def test_processes_that_do_not_come_are_lost_ones(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: str) -> None:
        raise distributed.DistNetworkError("The client socket has timed out after 1800000ms")

    monkeypatch.setattr(distributed, "init_process_group", nobody)
    with pytest.raises(EnvironmentLack, match=r"found one lost \(The client socket has timed out"):
        process("cpu").__enter__()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x32 and 16x10)"),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        InputError("images: expected images, found none; give others"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass(started: list[str], error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, process("cpu"):
        raise error
    assert caught.value is error


def test_one_process_has_no_others_to_lose() -> None:
    with pytest.raises(RuntimeError, match="Connection closed"), process("cpu"):
        raise RuntimeError(GLOO)
