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
from onnx import TensorProto, helper
from toolchain_harness import FORMS, METHODS, Quantized, check_on_onnxruntime
from toolchain_models import case

from mnq.ops import registry
from mnq.runtime.purity import float_tensors
from mnq.toolchain import export
from mnq.toolchain import map as maps
from mnq.toolchain.lower import INPUT, OUTPUT, lower
from mnq.toolchain.map import Map

# Every method and form with pixels at 8 bits; at 6 and 4 bits, and with the float input, every
# method in one form or the other.
CASES = [(method, form, 8, "uint8") for method in METHODS for form in FORMS]
CASES += [(m, FORMS[i % 2], 6, "float") for i, m in enumerate(METHODS)]
CASES += [(m, FORMS[(i + 1) % 2], 4, "uint8") for i, m in enumerate(METHODS)]


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


# A method, form, width and input for each architecture; every method in windows.
TURNS = [*enumerate(models.ARCHITECTURES), *((i, models.windows) for i in (9, 12, 15))]


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("turn", "build"), TURNS, ids=lambda v: getattr(v, "__name__", v))
def test_architectures_compute_the_integers_of_their_program(
    turn: int, build: Callable[[], torch.nn.Module], quantizations: Callable[..., Quantized]
) -> None:
    method, form = METHODS[turn % 4], FORMS[(turn + turn // 4) % 2]
    bits, kind = (8, 4)[(turn // 2 + turn // 4) % 2], ("uint8", "float")[turn // 4 % 2]
    program = quantizations(build).program(method, form, bits, kind)
    check_on_onnxruntime(program, ("all",), deployed=len(program.outputs) > 1)


@pytest.mark.onnxruntime
def test_mixed_methods_in_windows_compute_the_integers_of_their_program(
    quantizations: Callable[..., Quantized],
) -> None:
    """Another method at every site."""
    quantized = quantizations(models.windows)
    entries: dict[str, dict[str, str]] = {}
    for number, (site, kind) in enumerate(quantized.graph.sites().items()):
        methods = registry.METHODS[kind]
        entries[site] = {"method": methods[number % len(methods)]}
        if kind == "softmax":
            entries[site]["attention"] = FORMS[number % 2]
    program = quantized.build(Map("tiny", 8, 8, {}, entries))
    check_on_onnxruntime(program, ("all",), deployed=False)


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


def test_several_outputs_have_names_types_and_shapes_of_their_own(
    quantizations: Callable[..., Quantized],
) -> None:
    program = quantizations(models.pyramid).program("lut")
    graph = lower(program, {}).graph
    assert [output.name for output in graph.output] == ["features_0", "features_1"]
    for output, name in zip(graph.output, program.outputs, strict=True):
        dims = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
        expected = program.run(models.pixels(2))[name].numpy()
        assert dims == ["batch", *expected.shape[1:]]
        dtype = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
        assert dtype == expected.dtype == np.int16


def returned(body: Callable[[Any, torch.Tensor], Any], **modules: torch.nn.Module) -> Any:
    """A model of this forward function, with more modules."""
    model = type("Returned", (models.Tokens,), {"forward": body})()
    for name, module in modules.items():
        model.add_module(name, module)
    return models.randomize(model)


def constant_first(m: Any, x: torch.Tensor) -> Any:
    """A concatenation that begins with a constant of 16 bits."""
    t = m.tokens(x)
    row = torch.linspace(-1, 1, 32).reshape(1, 1, 32).expand(x.shape[0], -1, -1)
    t = torch.cat([row, t], 1)
    return t, m.out(t)


def padded_stream(m: Any, x: torch.Tensor) -> Any:
    """onnxruntime pads no 16-bit integers."""
    t = torch.nn.functional.pad(m.tokens(x), (0, 0, 1, 2))
    return t, m.out(t[:, 1:])


def named_as_outputs(m: Any, x: torch.Tensor) -> Any:
    """Modules that have the names of the graph's own tensors."""
    t = m.features_0(m.image(m.tokens(x)))
    return t, m.out(t)


def named_logits(m: Any, x: torch.Tensor) -> Any:
    return m.logits(m.norm(m.tokens(x))[:, 0])


@pytest.mark.onnxruntime
@pytest.mark.parametrize("body", [constant_first, padded_stream, named_as_outputs, named_logits])
def test_outputs_are_copies_of_any_tensor(
    body: Callable[[Any, torch.Tensor], Any], normalized: torch.Tensor
) -> None:
    layers = {name: torch.nn.Linear(32, 32) for name in ("image", "features_0", "logits")}
    program = Quantized(returned(body, **layers), normalized).program("lut")
    if body in (constant_first, padded_stream):
        assert program.run(models.pixels(2))[next(iter(program.features))].dtype == torch.int16
    check_on_onnxruntime(program, ("all",))


def without_biases(m: Any, x: torch.Tensor) -> Any:
    return m.second(m.first(m.tokens(x)[:, 0]))


@pytest.mark.onnxruntime
def test_long_vectors_of_one_number_exist_once(normalized: torch.Tensor) -> None:
    sizes = {"first": (32, 160), "second": (160, 160)}
    layers = {name: torch.nn.Linear(*size, bias=False) for name, size in sizes.items()}
    program = Quantized(returned(without_biases, **layers), normalized).program("lut")
    nodes = {node.output[0]: node for node in lower(program, {}).graph.node}
    shared = {*nodes["first"].input} & {*nodes["second"].input}
    assert "all.0.int32.160" in shared and "first.m" in nodes["first"].input
    check_on_onnxruntime(program, ("all",))


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
