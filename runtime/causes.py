"""A finding in words, and its likely causes: from where the same part is right, and where not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import TensorProto, helper

from mnq.runtime.bisect import Part
from mnq.runtime.contents import Change
from mnq.runtime.finding import ALONE, FILE, TOGETHER, WHOLE, Finding, differing, titles
from mnq.runtime.place import Place
from mnq.runtime.places import DIFFERS, EQUAL, MISSING, PATHS, REFUSED
from mnq.runtime.session import LEVELS, PROVIDERS

_VERDICTS = {EQUAL: "right at", DIFFERS: "wrong at", REFUSED: "refused at", MISSING: "not run at"}
_PRODUCTS = {"MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv", "QGemm"}


def in_words(finding: Finding, changes: Iterable[Change] = ()) -> list[str]:
    """The finding as lines for people."""
    index, expected, found = finding.first()
    part, smallest = finding.part, finding.smallest
    nodes = finding.nodes
    some = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
    how = {
        ALONE: f"{some} alone, on right inputs",
        TOGETHER: f"{some}, together and on right inputs",
        WHOLE: "the whole graph; no smaller part is wrong",
        FILE: f"{some}, on right inputs",
    }[finding.kind]
    lines = [f"smallest wrong part: {how}; at {finding.place}"]
    where = f"tensor {finding.tensor!r} of torch module {finding.module or '(top)'!r}"
    if smallest is not part:
        lines.append(f"in it: {', '.join(titles(smallest.piece)[-4:])}")
        where += f", inside {smallest.piece.target!r}"
    if expected is None:
        lines.append(f"{where}: other integers than certified")
    else:
        at = "" if index is None else f", index {index}"
        count = f"{differing(smallest)} of {smallest.found.size} differ"
        lines.append(f"{where}{at}: expected {expected}, found {found}; {count}")
    for verdict, text in _VERDICTS.items():
        places = [other.place for other in finding.elsewhere if other.verdict == verdict]
        if places:
            lines.append(f"the same part is {text} {'; '.join(_grouped(places))}")
    return lines + [f"likely cause: {cause}" for cause in likely(finding, changes)]


def _grouped(places: list[Place]) -> Iterator[str]:
    """Places in few words."""
    if any(place.engine == "reference" for place in places):
        yield "onnx.reference"
    for provider in PROVIDERS:
        levels = [p.level for p in places if (p.engine, p.provider) == ("functions", provider)]
        if levels:
            every = len(levels) == len(LEVELS)
            yield f"{provider} functions at {'every level' if every else ', '.join(levels)}"
    kernels = [place for place in places if place.engine == "kernels"]
    yield from {f"kernels {p.provider}": None for p in kernels if p.provider != "cpu"}
    counts: dict[str, list[str]] = {}
    for place in kernels:
        if place.provider == "cpu":
            counts.setdefault(place.path, []).append(str(place.threads))
    paths: dict[str, list[str]] = {}
    for path, threads in counts.items():
        plural = "" if threads == ["1"] else "s"
        paths.setdefault(f"{' and '.join(threads)} thread{plural}", []).append(path)
    for text, names in paths.items():
        yield f"kernels {', '.join(names)} with {text}"


def likely(finding: Finding, changes: Iterable[Change] = ()) -> list[str]:
    """Sentences, the likeliest first; [] where nothing is known.

    changes: what in the file is not as certified.
    """
    outputs = {name for node in finding.part.piece.nodes for name in node.output}
    guilty = [change for change in changes if outputs & {*change.nodes}]
    if guilty:
        return [f"the file was changed after the export: {change}" for change in guilty]
    if finding.kind == FILE:
        names = ", ".join(finding.part.piece.constants) or "none"
        return [
            "the file is another than certified, for nothing here computes the certified integers "
            f"from right inputs; its constants are {names}"
        ]
    if finding.kind == WHOLE:
        return ["an optimization of onnxruntime over the whole graph, or a fault of this machine"]
    return [*_saturation(finding.smallest), *_by_place(finding)]


def _by_place(finding: Finding) -> list[str]:
    """By where the same part is right and where it is wrong."""
    nodes = ", ".join(finding.nodes[-3:])
    wrong = [other.place for other in finding.elsewhere if other.verdict == DIFFERS]
    right = [other.place for other in finding.elsewhere if other.verdict == EQUAL]
    if not wrong:
        return [f"only {finding.place} gives these integers; elsewhere the part is right"]
    if not right:
        return [
            "nothing here computes the expected integers from right inputs: the file has other "
            "constants than the reference, or an operator is defined in another way"
        ]
    if finding.place.engine == "kernels":
        return _of_kernels(nodes, wrong, right)
    return _of_functions(finding, wrong, right)


def _of_kernels(nodes: str, wrong: list[Place], right: list[Place]) -> list[str]:
    def paths(places: list[Place]) -> set[str]:
        found = (_path(place) for place in places if place.engine == "kernels")
        return {path for path in found if path}

    bad, good = paths(wrong), paths(right) - paths(wrong)
    split = paths(wrong) & paths(right)  # with one number of threads, and not with another
    if split:
        return [f"the kernel of {nodes} depends on the number of threads on {_list(split)}"]
    if bad and good:
        return [f"the kernel of {nodes} is wrong on the path {_list(bad)}, right on {_list(good)}"]
    if bad:
        return [f"the kernel of {nodes} is wrong on every path: onnx.reference gives the integers"]
    return [f"an optimization of onnxruntime at level {_lowest(wrong)}, around {nodes}"]


def _of_functions(finding: Finding, wrong: list[Place], right: list[Place]) -> list[str]:
    names = ", ".join(titles(finding.smallest.piece)[-3:])
    provider = finding.place.provider
    here = [place for place in wrong if place.provider == provider]
    if provider != "cpu" and all(place.provider == provider for place in wrong):
        return [f"the provider {provider} computes {names} wrong; the CPU gives the integers"]
    if any(p.engine == "functions" and p.level == "disabled" for p in right):
        return [f"onnxruntime's optimizer, from level {_lowest(here)} on, changes {names}"]
    return [f"onnxruntime computes {names} wrong on this processor: onnx.reference does not"]


def _lowest(places: list[Place]) -> str:
    """The lowest level at which something is wrong."""
    levels = [level for level in LEVELS if any(place.level == level for place in places)]
    return levels[0] if levels else "all"


def _path(place: Place) -> str:
    """The path of a place's kernels; on a GPU there is one, named as the provider."""
    return place.path if place.provider == "cpu" else place.provider


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names, key=(*PATHS, *PROVIDERS).index))


def _saturation(part: Part) -> list[str]:
    """Products of unsigned and signed bytes, which saturate on older processors."""
    types = {tensor.name: tensor.data_type for tensor in part.piece.model.graph.initializer}
    types |= {
        name: helper.np_dtype_to_tensor_dtype(values.dtype) for name, values in part.feeds.items()
    }
    for node in part.piece.nodes:
        operands = {types.get(name) for name in node.input}
        mixed = {TensorProto.UINT8, TensorProto.INT8} <= operands
        if node.op_type in _PRODUCTS and mixed:
            return [
                f"{node.op_type} {node.output[0]!r} multiplies u8 by s8: on processors without "
                "VNNI onnxruntime adds pairs of products with saturation"
            ]
    return []
