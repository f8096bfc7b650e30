"""Lower: the ONNX model computes the program's integers, tensor by tensor, tolerance zero."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import toolchain_models as models
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from toolchain_harness import FORMS, METHODS, Quantized, every_tensor
from toolchain_models import case

from mnq.runtime.purity import float_tensors
from mnq.runtime.session import open_session
from mnq.toolchain import export
from mnq.toolchain import map as maps
from mnq.toolchain.lower import INPUT, OUTPUT, lower
from mnq.toolchain.program import Program

LEVELS = ("disabled", "all")

# Every method and form with pixels at 8 bits; at 6 and 4 bits, and with the float input, every
# method in one form or the other.
CASES = [(method, form, 8, "uint8") for method in METHODS for form in FORMS]
CASES += [(m, FORMS[i % 2], 6, "float") for i, m in enumerate(METHODS)]
CASES += [(m, FORMS[(i + 1) % 2], 4, "uint8") for i, m in enumerate(METHODS)]


def images_for(kind: str, batch: int) -> NDArray[Any]:
    """Black and white, or random; beyond all pixels where the input is float."""
    pixels = models.pixels(batch, seed=batch)
    if batch == 1:
        pixels = models.pixels(5, seed=11)[4:]
    return pixels.numpy() if kind == "uint8" else (models.normalize(pixels) * 1.5).numpy()


def assert_same(found: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    assert found.dtype == expected.dtype, what
    np.testing.assert_array_equal(found, expected, strict=True, err_msg=what)


def check_on_onnxruntime(program: Program, levels: tuple[str, ...] = LEVELS) -> None:
    """Every tensor at every level, for one image and for three, and the output alone."""
    proto = lower(program, {})
    names = [program.image.name, *(step.output for step in program.steps)]
    for level in levels:
        run = every_tensor(proto, names, level)
        for batch in (1, 3):
            images = images_for(program.image.kind, batch)
            expected = {n: v.numpy() for n, v in program.run(torch.from_numpy(images)).items()}
            for name, values in run(images).items():
                assert_same(values, expected[name], f"{name}, level {level}, batch {batch}")
        deployed = open_session(proto, level=level, threads=1, kernels=False)
        logits = deployed.run(None, {INPUT: images})[0]
        assert_same(logits, expected[program.output], f"logits, level {level}")


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("method", "form", "bits", "kind"), CASES)
def test_onnxruntime_computes_the_integers_of_the_program(
    quantized: Quantized, method: str, form: str, bits: int, kind: str
) -> None:
    check_on_onnxruntime(quantized.program(method, form, bits, kind))


def no_final_layers() -> torch.nn.Module:
    return models.tiny(depth=1, final_norm=False, num_classes=0)


def sub_norms() -> torch.nn.Module:
    return models.tiny(depth=1, qk_norm=True, scale_attn_norm=True, scale_mlp_norm=True)


def rearranged() -> torch.nn.Module:
    """Slices, a repeated activation, a constant row, sums, numbers, a bias on the scores."""
    bias = torch.linspace(-2, 2, 256).reshape(1, 1, 16, 16)

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        q, k, v = m.heads(t)
        t = m.join(t, (q @ k.transpose(-1, -2) * 0.25 + bias).softmax(-1) @ v)
        one = t[:, -1:].expand(-1, 2, -1)
        row = torch.linspace(-1, 1, 32).reshape(1, 1, 32).expand(t.shape[0], -1, -1)
        t = torch.cat([one, row, t[:, 2:-1:3]], 1)
        return t + t * 0.5

    return case(middle)


@pytest.mark.onnxruntime
@pytest.mark.parametrize("build", [models.distilled, no_final_layers, sub_norms, rearranged])
def test_other_models_compute_the_integers_of_their_program(
    build: Callable[[], torch.nn.Module], normalized: torch.Tensor
) -> None:
    check_on_onnxruntime(Quantized(build(), normalized).program("lut"), ("all",))


@pytest.mark.onnxruntime
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_image_that_is_not_cut_into_patches(kind: str, normalized: torch.Tensor) -> None:
    quantized = Quantized(models.randomize(models.OnPixels()), normalized)
    program = quantized.program("lut", kind=kind)
    assert program.image.patch is None
    check_on_onnxruntime(program, ("all",))


# --- the file ---


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("method", METHODS)
def test_model_passes_the_full_checker_and_holds_integers_only(
    quantized: Quantized, method: str, kind: str
) -> None:
    proto = lower(quantized.program(method, kind=kind), {})
    onnx.checker.check_model(proto, full_check=True)
    assert float_tensors(proto) == []


@pytest.fixture(scope="module")
def proto(quantized: Quantized) -> onnx.ModelProto:
    return lower(quantized.program("lut"), {"b": "2", "a": "1"})


def test_versions_and_metadata(proto: onnx.ModelProto) -> None:
    assert proto.ir_version == 10 and proto.producer_name == "mnq"
    assert {o.domain: o.version for o in proto.opset_import} == {"": 21, "mnq": 1}
    assert [(p.key, p.value) for p in proto.metadata_props] == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize(
    ("kind", "element_type"), [("uint8", TensorProto.UINT8), ("float", TensorProto.FLOAT)]
)
def test_input_and_output_have_a_dynamic_batch(
    quantized: Quantized, kind: str, element_type: int
) -> None:
    graph = lower(quantized.program("lut", kind=kind), {}).graph
    ((image,), (logits,)) = graph.input, graph.output
    assert (image.name, logits.name) == (INPUT, OUTPUT)
    assert image.type.tensor_type.elem_type == element_type
    assert logits.type.tensor_type.elem_type == TensorProto.INT32
    dims = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 32, 32]
    dims = [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim]
    assert dims == ["batch", 10]


def test_tensors_keep_the_names_of_the_program(
    proto: onnx.ModelProto, quantized: Quantized
) -> None:
    made = {name for node in proto.graph.node for name in node.output}
    program = quantized.program("lut")
    assert made >= {program.image.name, *(s.output for s in program.steps)}


def test_every_operator_has_its_function_and_no_other_is_there(proto: onnx.ModelProto) -> None:
    """Functions that the nodes name, and those that these call."""
    functions = {f.name: f for f in proto.functions}
    needed = {n.op_type for n in proto.graph.node if n.domain == "mnq"}
    waiting = list(needed)
    while waiting:
        called = {n.op_type for n in functions[waiting.pop()].node if n.domain == "mnq"}
        waiting += called - needed
        needed |= called
    assert set(functions) == needed and len(functions) == len(proto.functions)
    assert {"LutPackedAttention", "Patches"} <= needed and "FqVitAttention" not in needed


def test_lowering_twice_gives_the_same_bytes(quantized: Quantized) -> None:
    first, second = (lower(quantized.program("ibert"), {"k": "v"}) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


EXPORT = """
import hashlib, sys
sys.path.append(sys.argv[1])
import toolchain_models as models
from toolchain_harness import Quantized
from mnq.toolchain import export, map
loaded = models.loaded()
found = Quantized(loaded.model, models.normalize(models.pixels(16)))
proto = export.export(loaded, found.prepared, found.statistics, map.uniform("tiny", "lut"))
print(hashlib.sha256(proto.SerializeToString()).hexdigest())
"""


def test_exports_of_two_processes_are_the_same_bytes(quantized: Quantized, loaded: Any) -> None:
    """Whatever the order of sets and dictionaries keyed by hash, and whatever ran before."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # other than of this process
    threads = str(torch.get_num_threads())  # float sums of the calibration depend on it
    other = subprocess.run(
        [sys.executable, "-c", EXPORT, str(Path(__file__).parent)],
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": seed},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    mapping = maps.uniform("tiny", "lut")
    here = export.export(loaded, quantized.prepared, quantized.statistics, mapping)
    assert other.stdout.strip() == hashlib.sha256(here.SerializeToString()).hexdigest()
