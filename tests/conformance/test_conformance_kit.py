"""The committed vectors: made by the command, complete, and right on everything that we have."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import check
import conformance_plain
import generate
import kit
import numpy as np
import onnx
import ops_reference
import pytest
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator
from ops_native import PATHS

from mnq.ops.kernels import paths
from mnq.ops.library import OVERRIDE, library_path
from mnq.ops.registry import OPERATORS

ROOT = generate.ROOT
KIT = ROOT / "conformance"
AGAIN = f"run: .venv/bin/{generate.COMMAND}"
TYPE = re.compile(r"\bu?int\d+\b")
CODE_SPAN = re.compile(r"`(\w+)`")
LAYERS = ("QLinear", "QLinearAdd", "QLinearLut")

ALL = list(kit.vectors())
OF: dict[str, list[kit.Vector]] = defaultdict(list)
for _vector in ALL:
    OF[_vector.operator].append(_vector)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, str(library_path()))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for name in kit.FOLDERS for path in (folder / name).rglob("*"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files if p.is_file()}


def test_the_command_writes_the_committed_bytes(tmp_path: Path) -> None:
    generate.write(tmp_path)
    made, there = contents(tmp_path), contents(KIT)
    assert set(made) == set(there), AGAIN
    different = [name for name in made if made[name] != there[name]]
    assert not different, f"{AGAIN} and see what changed in {different}"


def test_every_operator_has_vectors() -> None:
    missing = sorted(set(OPERATORS) - set(OF))
    assert not missing, (
        f"no conformance vectors of {missing}: add cases to tests/conformance/conformance_cases.py "
        f"(a new method needs none), then {AGAIN}"
    )
    assert set(OF) - {""} == set(OPERATORS), AGAIN


@pytest.mark.parametrize("operator", OPERATORS)
def test_vectors_are_in_the_operators_own_terms(operator: str) -> None:
    names = [vector.name for vector in OF[operator]]
    assert len(names) == len(set(names))
    for vector in OF[operator]:
        assert (*vector.inputs, *vector.constants) == OPERATORS[operator].inputs
        assert (vector.to is None) == (OPERATORS[operator].attributes == ())
    assert {bits for bits in (8, 6, 4) if any(f"{bits} bits" in n for n in names)} == {8, 6, 4}


def page_types(operator: str) -> dict[str, set[str]]:
    """By input, and for `to`, the element types that the operator's page allows."""
    text = (ROOT / generate.page(operator)).read_text()
    found: dict[str, set[str]] = defaultdict(set)
    for line in text.split("\n## Definition")[0].splitlines():
        cells = line.strip("|").split("|")
        spans = CODE_SPAN.findall(cells[0])
        if line.startswith("| `") and (not spans[1:] or operator in spans[1:]):
            types = cells[2] if spans[0] == "to" else cells[1]
            found[spans[0]] |= set(TYPE.findall(types.lower()))
    return found


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_element_type_of_the_page_is_covered(operator: str) -> None:
    covered: dict[str, set[str]] = defaultdict(set)
    for vector in OF[operator]:
        for name, array in (*vector.inputs.items(), *vector.constants.items()):
            covered[name].add(array.dtype.name)
        if vector.to is not None:
            covered["to"].add(vector.to)
    allowed = page_types(operator)
    for name, types in covered.items():
        assert types == (allowed[name] or {"int32"}), name  # a softmax's own inputs of attention


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        *((operator, "m") for operator in ("Requantize", "RequantizeAdd", "QLinear", "QMatMul")),
        *(("QLinearAdd", name) for name in ("m", "m_r")),
        *(("QLinearLut", name) for name in ("m", "lo")),
        *(("Softmax", name) for name in ("x0", "base")),
        *(("Attention", name) for name in ("m_s", "x0", "base")),
    ],
)
def test_constants_come_per_tensor_and_per_channel_or_head(suffix: str, name: str) -> None:
    for operator in OPERATORS:
        shapes = {v.constants[name].ndim for v in OF[operator] if name in v.constants}
        if operator.endswith(suffix) and shapes:
            assert 0 in shapes and len(shapes) > 1, operator


def test_multipliers_have_both_signs_and_shifts_reach_their_ends() -> None:
    for operator in ("Requantize", "RequantizeAdd", *LAYERS, "QMatMul"):
        m = np.concatenate([v.constants["m"].reshape(-1) for v in OF[operator]])
        assert m.min() < 0 < m.max(), operator
    for operator in ("Requantize", "RequantizeAdd", *LAYERS, "IVitLayerNorm"):
        e = np.concatenate([v.constants["e"].reshape(-1) for v in OF[operator]])
        assert set(e.tolist()) == set(range(1, 63)), operator


def test_integers_fit_a_double_and_all_files_a_megabyte() -> None:
    for vector in ALL:
        for array in (*vector.inputs.values(), *vector.constants.values()):
            assert max(-int(array.min()), int(array.max())) < 2**53, vector.name
    files = (p for p in KIT.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    assert sum(p.stat().st_size for p in files) < 1e6


@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param("functions", marks=pytest.mark.onnxruntime),
        "reference",
        pytest.param("kernels", marks=[pytest.mark.onnxruntime, pytest.mark.native]),
        str(Path(__file__).parent / "conformance_torch.py"),
    ],
    ids=lambda name: Path(name).stem,
)
def test_runtime_reproduces_every_vector(
    runtime: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if runtime == "kernels":
        request.getfixturevalue("library")
    status = check.main([runtime])
    printed = capsys.readouterr().out
    assert status == 0, printed
    taken = len(ALL) - (len(OF[""]) if "torch" in runtime else 0)
    assert f"{runtime} conforms: {taken} of {len(ALL)} vectors run, 0 wrong" in printed


@pytest.mark.native
@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_the_kernels_reproduces_every_vector(
    path: str,
    library: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if path not in paths():
        pytest.skip(f"missing CPU feature: path {path}, this machine has {paths()}")
    monkeypatch.setenv("MNQ_CPU_PATH", path)
    assert check.main(["c_interface"]) == 0, capsys.readouterr().out
    taken = len(ALL) - len(OF[""])
    assert f"conforms: {taken} of {len(ALL)} vectors run, 0 wrong" in capsys.readouterr().out


@pytest.mark.parametrize("rounding", ["half_even", "half_away"])
def test_vectors_tell_roundings_apart(rounding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain integers that take ties elsewhere fail wherever there is a requantization."""
    function = getattr(ops_reference, rounding)

    def scaled(z: int, m: int, e: int) -> int:
        return int(function(z * m * ops_reference.power(-e)))

    monkeypatch.setattr(conformance_plain, "scaled", np.frompyfunc(scaled, 3, 1))
    for operator in OPERATORS:
        wrong = False
        for vector in OF[operator]:
            inputs = {**vector.inputs, **vector.constants}
            y = conformance_plain.compute(operator, inputs)
            wrong = wrong or (y is not None and bool((y != vector.expected["y"]).any()))
        requantizes = "m" in OPERATORS[operator].inputs and "Attention" not in operator
        assert wrong or not requantizes, operator


def test_onnx_finds_its_own_layout_and_zero_tolerance(tmp_path: Path) -> None:
    """The committed folders, and what --write-onnx makes."""
    check.main(["--write-onnx", str(tmp_path / "all"), "--only", "^QMatMul$|^model"])
    counts = {}
    for folder, kind in ((KIT, "onnx"), (KIT, "models"), (tmp_path, "all")):
        found = load_model_tests(data_dir=str(folder), kind=kind)
        counts[kind] = len(found)
        for case in found:
            assert case.rtol == case.atol == 0
            where = Path(str(case.model_dir))
            model = onnx.load_model(where / "model.onnx")
            given, right = (
                [
                    onnx.numpy_helper.to_array(
                        onnx.load_tensor(where / f"test_data_set_0/{k}_{i}.pb")
                    )
                    for i in range(len(values))
                ]
                for k, values in (("input", model.graph.input), ("output", model.graph.output))
            )
            feeds = {info.name: x for info, x in zip(model.graph.input, given, strict=True)}
            for y, expected in zip(ReferenceEvaluator(model).run(None, feeds), right, strict=True):
                assert check.difference(case.name, np.asarray(y), expected) == ""
    assert counts == {"onnx": len(OPERATORS), "models": 2, "all": len(OF["QMatMul"]) + 4}


def test_models_have_every_method_and_windows() -> None:
    models = [onnx.load_model(path) for path in (KIT / "models").glob("*/model.onnx")]
    used = [{node.op_type for node in model.graph.node} for model in models]
    methods = {name for name in OPERATORS if name.endswith(("Gelu", "LayerNorm"))}
    tables = {name for name in methods if OPERATORS[name].elementwise}  # of the layer before
    for model, nodes in zip(models, used, strict=True):
        assert methods - tables <= nodes
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("QLinearLut") == len(tables)
        assert len({name for name in nodes if name.endswith("Attention")}) == 4
    assert any("Window" in name for name in set.union(*used))


def test_the_kit_imports_nothing_of_mnq() -> None:
    own = {path.stem for path in KIT.rglob("*.py")} | {"numpy", "onnx", "onnxruntime"}
    for path in KIT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert roots <= own | sys.stdlib_module_names, path
