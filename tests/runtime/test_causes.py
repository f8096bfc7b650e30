import shutil
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnq.runtime.bisect import Part
from mnq.runtime.causes import in_words, likely
from mnq.runtime.contents import Change
from mnq.runtime.finding import ALONE, TOGETHER, WHOLE, Elsewhere, Finding
from mnq.runtime.pieces import Piece
from mnq.runtime.place import Place
from mnq.runtime.places import DIFFERS, EQUAL, MISSING, PATHS, REFUSED
from mnq.runtime.session import LEVELS

REFERENCE = Place("reference")
FUNCTIONS = [Place("functions", level) for level in LEVELS]
KERNELS = [Place("kernels", "disabled", "cpu", n, path) for path in PATHS for n in (1, 2)]


def part(kind: str = "Add", dtype: type[np.generic] = np.int32, weights: str = "int32") -> Part:
    """One node on two integers, of which the second is one too large."""
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [2])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [2])
    constant = numpy_helper.from_array(np.array([3, 4], weights), "y.w")
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "y.w"], ["y"])], "g", [x], [y], [constant]
    )
    right = np.array([5, 6], np.int32)
    piece = Piece(helper.make_model(graph), ("x",), "y")
    return Part(piece, 1, {"x": np.array([1, 2], dtype)}, right, right + np.array([0, 1], np.int32))


def finding(
    place: Place,
    wrong: Iterable[Place],
    right: Iterable[Place],
    kind: str = ALONE,
    inner: Part | None = None,
) -> Finding:
    elsewhere = [Elsewhere(p, DIFFERS) for p in wrong] + [Elsewhere(p, EQUAL) for p in right]
    return Finding(kind, "blocks.0", place, part(), inner, elsewhere)


def of_paths(*names: str) -> list[Place]:
    return [place for place in KERNELS if place.path in names]


CAUSES = {
    "the kernel of Add 'y' is wrong on the path avx2, right on portable, avx512, amx": finding(
        Place("kernels", path="avx2"),
        of_paths("avx2"),
        [REFERENCE, *FUNCTIONS, *of_paths("portable", "avx512", "amx")],
    ),
    "the kernel of Add 'y' is wrong on the path cuda, right on portable, amx": finding(
        Place("kernels", provider="cuda"),
        [Place("kernels", "disabled", "cuda")],
        [REFERENCE, *FUNCTIONS, *of_paths("portable", "amx")],
    ),
    "the kernel of Add 'y' is wrong on every path: onnx.reference gives the integers": finding(
        Place("kernels"), KERNELS, [REFERENCE, *FUNCTIONS]
    ),
    "the kernel of Add 'y' depends on the number of threads on amx": finding(
        Place("kernels"), KERNELS[-1:], [REFERENCE, *KERNELS[:-1]]
    ),
    "an optimization of onnxruntime at level extended, around Add 'y'": finding(
        Place("kernels", "extended"),
        [Place("kernels", "extended")],
        [REFERENCE, *KERNELS],
        TOGETHER,
    ),
    "onnxruntime's optimizer, from level extended on, changes Add 'y'": finding(
        Place("functions", "all"), FUNCTIONS[2:], [REFERENCE, *FUNCTIONS[:2], *KERNELS]
    ),
    "onnxruntime computes Mul 'y' wrong on this processor: onnx.reference does not": finding(
        Place("functions", "all"), FUNCTIONS, [REFERENCE, *KERNELS], inner=part("Mul")
    ),
    "the provider cuda computes Add 'y' wrong; the CPU gives the integers": finding(
        Place("functions", "all", "cuda"),
        [Place("functions", level, "cuda") for level in LEVELS],
        [REFERENCE, *FUNCTIONS],
    ),
    "only cpu, 7 threads, level all gives these integers; elsewhere the part is right": finding(
        Place("functions", threads=7), [], [REFERENCE, *FUNCTIONS]
    ),
    "nothing here computes the expected integers from right inputs: the file has other constants "
    "than the reference, or an operator is defined in another way": finding(
        Place("functions"), [REFERENCE, *FUNCTIONS, *KERNELS], []
    ),
    "an optimization of onnxruntime over the whole graph, or a fault of this machine": finding(
        Place("functions"), [], [], WHOLE
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_follows_from_where_the_part_is_right(cause: str) -> None:
    assert likely(CAUSES[cause]) == [cause]


def test_products_of_unsigned_and_signed_bytes_are_the_first_cause() -> None:
    mixed = part("MatMulInteger", np.uint8, "int8")
    first, second = likely(finding(Place(), FUNCTIONS, [REFERENCE], inner=mixed))
    assert first.startswith("MatMulInteger 'y' multiplies u8 by s8: on processors without VNNI")
    assert second.startswith("onnxruntime computes MatMulInteger 'y' wrong on this processor")
    for other in (part("MatMulInteger", np.int8, "int8"), part("Add", np.uint8, "int8")):
        assert len(likely(finding(Place(), FUNCTIONS, [REFERENCE], inner=other))) == 1


def test_a_changed_constant_is_the_cause_if_the_part_reads_it() -> None:
    mine = Change("constant", "y.w", ("y",), "other values than certified")
    other = Change("constant", "z.w", ("z",), "other values than certified")
    given = finding(Place(), FUNCTIONS, [])
    assert likely(given, [other, mine]) == [f"the file was changed after the export: {mine}"]
    assert "the file was changed" not in likely(given, [other])[0]


def test_a_finding_in_words() -> None:
    found = finding(Place(threads=2), FUNCTIONS[2:], [REFERENCE, *FUNCTIONS[:2], *of_paths("avx2")])
    lines = in_words(found)
    assert lines == [
        "smallest wrong part: Add 'y' alone, on right inputs; at cpu, 2 threads, level all",
        "tensor 'y' of torch module 'blocks.0', index [1]: expected 6, found 7; 1 of 2 differ",
        "the same part is right at onnx.reference; cpu functions at disabled, basic; kernels avx2 "
        "with 1 and 2 threads",
        "the same part is wrong at cpu functions at extended, all",
        "likely cause: onnxruntime's optimizer, from level extended on, changes Add 'y'",
    ]


def test_words_name_the_operator_inside_and_what_was_not_run() -> None:
    found = finding(Place(), FUNCTIONS, [REFERENCE], inner=part("Mul"))
    found.elsewhere.append(Elsewhere(KERNELS[0], MISSING, "no library"))
    found.elsewhere.append(Elsewhere(KERNELS[2], REFUSED, "bad constant"))
    lines = in_words(found)
    assert lines[1] == "in it: Mul 'y'"
    assert "inside 'y', index [1]" in lines[2]
    assert "the same part is wrong at cpu functions at every level" in lines
    assert "the same part is refused at kernels avx2 with 1 thread" in lines
    assert "the same part is not run at kernels portable with 1 thread" in lines


SATURATION = """
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from mnq.runtime.bisect import Search
from mnq.runtime.causes import likely
from mnq.runtime.finding import Finding, Elsewhere
from mnq.runtime.place import Place

a = helper.make_tensor_value_info("a", TensorProto.UINT8, [None, 64])
y = helper.make_tensor_value_info("y", TensorProto.INT32, [None, 16])
w = numpy_helper.from_array(np.full((64, 16), 127, np.int8), "w")
node = helper.make_node("MatMulInteger", ["a", "w"], ["y"])
model = helper.make_model(helper.make_graph([node], "g", [a], [y], [w]),
                          opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
x = np.full((4, 64), 255, np.uint8)
place, reference = Place("functions", "disabled"), Place("reference")
right = {"a": x, **reference.run(model, {"a": x})}
part = Search(model, right, ["y"], place, lambda text: None).run()
elsewhere = [Elsewhere(place, "differs"), Elsewhere(reference, "equal")]
print(part.expected[0, 0], part.found[0, 0],
      likely(Finding("alone", "", place, part, None, elsewhere))[0])
"""


@pytest.mark.onnxruntime
def test_saturation_is_found_on_an_emulated_cpu_without_vnni() -> None:
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("missing emulator: qemu-x86_64 (Debian: apt install qemu-user)")
    command = [emulator, "-cpu", "Haswell", sys.executable, "-c", SATURATION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, found, cause = done.stdout.split(maxsplit=2)
    assert int(expected) == 64 * 255 * 127 > int(found)
    assert cause.startswith("MatMulInteger 'y' multiplies u8 by s8: on processors without VNNI")
