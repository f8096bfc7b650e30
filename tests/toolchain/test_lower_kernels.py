"""Whole models on the native library: every tensor has PyTorch's integers, tolerance zero."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import toolchain_models as models
import torch
from toolchain_harness import FORMS, METHODS, Quantized

from mnq.ops.library import cpu_path, library_path
from mnq.runtime.session import infer, open_session, with_all_outputs
from mnq.toolchain.lower import lower
from mnq.toolchain.program import Program

pytestmark = [pytest.mark.onnxruntime, pytest.mark.native, pytest.mark.slow]

PATHS = ("portable", "avx2", "avx512", "amx")


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_kernels_give_every_integer_of_pytorch(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch, method: str, form: str, bits: int
) -> None:
    """All paths of this CPU, one and two threads, several batch sizes."""
    check_on_every_path(quantized.program(method, form, bits), monkeypatch, (1, 3, 8))


# Windows with every method, and what else has operators of its own.
TURNS = [*((i, models.windows) for i in range(4)), (4, models.padded_windows)]
TURNS += [(5, models.cosine_windows), (6, models.relative_positions), (7, models.pyramid)]


@pytest.mark.parametrize(("turn", "build"), TURNS, ids=lambda v: getattr(v, "__name__", v))
def test_kernels_of_architectures_give_every_integer_of_pytorch(
    quantizations: Callable[..., Quantized],
    monkeypatch: pytest.MonkeyPatch,
    turn: int,
    build: Callable[[], torch.nn.Module],
) -> None:
    method, form, bits = METHODS[turn % 4], FORMS[(turn + turn // 4) % 2], (8, 4)[turn // 2 % 2]
    check_on_every_path(quantizations(build).program(method, form, bits), monkeypatch, (1, 3))


def check_on_every_path(
    program: Program, monkeypatch: pytest.MonkeyPatch, batches: tuple[int, ...]
) -> None:
    names = [step.output for step in program.steps]
    model = with_all_outputs(lower(program, {}), names)
    given = {batch: models.pixels(16)[:batch] for batch in batches}
    wanted = {batch: program.run(images) for batch, images in given.items()}
    runs = 0
    for path, threads in itertools.product(PATHS, (1, 2)):
        monkeypatch.setenv("MNQ_CPU_PATH", path)
        if not available(path):
            continue
        session = open_session(model, threads=threads, kernels=True)
        for batch, images in given.items():
            expected = wanted[batch]
            for name, found in zip(names, infer(session, images.numpy()), strict=True):
                what = f"{name} on {path}, {threads} threads, batch {batch}"
                assert found.dtype == expected[name].numpy().dtype, what
                np.testing.assert_array_equal(found, expected[name].numpy(), err_msg=what)
            runs += 1
    assert runs >= 2 * len(batches)


def available(path: str) -> bool:
    """Whether this CPU has the path that the environment names."""
    from mnq.ops.errors import EnvironmentLack

    library = library_path()
    assert library is not None
    try:
        return cpu_path(library) == path
    except EnvironmentLack:
        return False
