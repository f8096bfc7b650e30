"""The processes of a run: one by itself, or those that torchrun started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from mnq.ops.errors import EnvironmentLack

DEVICES = ("auto", "cpu", "cuda")

_LOST = re.compile("gloo|nccl|connection|socket|store", re.IGNORECASE)  # in what torch says then


@dataclass(frozen=True)
class Process:
    """This process: number `rank` of `world`, computing on `device`."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and talks."""
        return self.rank == 0


@contextmanager
def process(device: str) -> Iterator[Process]:
    """This process, connected to the others if torchrun started several.

    device: of DEVICES; `auto` is the process's own GPU if there is one. Raises EnvironmentLack if
    there is no GPU and one is asked for, if the others do not come, or if one is lost.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentLack(
            "qat: expected a CUDA GPU for --device cuda, found none; use --device cpu"
        )
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = torch.device("cpu")
    if device != "cpu" and torch.cuda.is_available():
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # equal runs, equal bits
        torch.use_deterministic_algorithms(True, warn_only=True)
    if world == 1:
        yield Process(0, 1, chosen)
        return
    try:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        yield Process(rank, world, chosen)
    except (RuntimeError, distributed.DistError) as error:
        if not isinstance(error, distributed.DistError) and not _LOST.search(str(error)):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise EnvironmentLack(
            f"qat: expected all {world} processes, found one lost ({reason}); start them again "
            "with --resume and the last checkpoint"
        ) from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
