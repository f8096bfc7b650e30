"""Whole models on the native library: every tensor has PyTorch's integers, tolerance zero."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from toolchain_harness import FORMS, METHODS, Quantized

from mnq.ops.library import cpu_path, library_path
from mnq.runtime.session import infer, open_session, with_all_outputs
from mnq.toolchain.lower import lower

pytestmark = [pytest.mark.onnxruntime, pytest.mark.native, pytest.mark.slow]

PATHS = ("portable", "avx2", "avx512", "amx")
BATCHES = (1, 3, 8)


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_kernels_give_every_integer_of_pytorch(
    quantized: Quantized,
    pixels: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    form: str,
    bits: int,
) -> None:
    """All paths of this CPU, one and two threads, several batch sizes."""
    program = quantized.program(method, form, bits)
    names = [step.output for step in program.steps]
    model = with_all_outputs(lower(program, {}), names)
    runs = 0
    for path, threads in itertools.product(PATHS, (1, 2)):
        monkeypatch.setenv("MNQ_CPU_PATH", path)
        if not available(path):
            continue
        session = open_session(model, threads=threads, kernels=True)
        for batch in BATCHES:
            images = pixels[:batch]
            expected = program.run(images)
            for name, found in zip(names, infer(session, images.numpy()), strict=True):
                what = f"{name} on {path}, {threads} threads, batch {batch}"
                assert found.dtype == expected[name].numpy().dtype, what
                np.testing.assert_array_equal(found, expected[name].numpy(), err_msg=what)
            runs += 1
    assert runs >= 2 * len(BATCHES)


def available(path: str) -> bool:
    """Whether this CPU has the path that the environment names."""
    from mnq.ops.errors import EnvironmentLack

    library = library_path()
    assert library is not None
    try:
        return cpu_path(library) == path
    except EnvironmentLack:
        return False
