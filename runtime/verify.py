"""Verify: the integers of an .onnx against a reference, tensor by tensor, tolerance zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.errors import InputError
from mnq.runtime import certificate
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.purity import float_tensors
from mnq.runtime.session import (
    LEVELS,
    infer,
    kernel_library,
    open_session,
    with_all_outputs,
)

Reference = Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]
"""Images (B, C, H, W) -> reference integers of every tensor, in execution order."""


@dataclass(frozen=True)
class Divergence:
    """The first differing tensor.

    index, expected and found are None when only digests exist. With integers expected and
    found are those at index; with another dtype or shape they name it and index is None.
    """

    tensor: str
    module: str
    index: list[int] | None = None
    expected: int | str | None = None
    found: int | str | None = None

    def __str__(self) -> str:
        where = f"tensor {self.tensor!r} of torch module {self.module or '(top)'!r}"
        if self.expected is None:
            return f"{where}: other integers than certified"
        at = "" if self.index is None else f", index {self.index}"
        return f"{where}{at}: expected {self.expected}, found {self.found}"


@dataclass
class Run:
    """One comparison: what ran, on how many images and tensors, and what differed."""

    name: str
    images: int = 0
    tensors: int = 0
    differing_tensors: int = 0
    differing_integers: int | None = 0
    first: Divergence | None = None

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing differed."""
        return self.tensors > 0 and self.differing_tensors == 0


@dataclass
class Report:
    """Everything that `mnq-verify` found."""

    model: str
    float_tensors: list[str]
    runs: list[Run] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the model is integer-only and every comparison found equal integers."""
        return not self.float_tensors and bool(self.runs) and all(r.passed for r in self.runs)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**asdict(self), "passed": self.passed}


def check_purity(model: ModelFile) -> Report:
    """A report that holds the float tensors of the model and no comparison yet."""
    return Report(model.name, float_tensors(model.proto))


def forms(provider: str = "cpu", kernels: bool | None = None) -> tuple[bool, ...]:
    """What there is to compare: a model's functions (False), the kernels (True), or both.

    kernels: only those, or only the functions; None for all that the provider has.

    Raises EnvironmentLack if `kernels` is True and there are none.
    """
    if kernel_library(provider, kernels) is None:
        return (False,)
    return (False, True) if kernels is None else (True,)


def check_certificate(
    model: ModelFile,
    level: str,
    *,
    provider: str = "cpu",
    threads: int = 0,
    kernels: bool = False,
) -> Run:
    """Compare digests of every tensor on the certificate's own images at one optimization level.

    kernels: run them, and not the model's own functions.

    The model also runs as deployed, with its output only, since reading inner tensors keeps
    the optimizer from fusing across them.
    """
    certificate.check_format(model.certificate)
    seed, count = model.certificate["seed"], model.certificate["images"]
    preprocess = model.preprocess
    shape = (preprocess.channels, preprocess.size, preprocess.size)
    source = certificate.images(model.input_kind, shape, seed, count)
    if certificate.digest(source) != model.certificate["input"]:
        raise InputError(
            "certificate: expected the images of its seed, found others; export the model again"
        )
    wanted: dict[str, str] = model.certificate["tensors"]
    uncertified = [name for name in model.tensors if name not in wanted]
    if uncertified:
        raise InputError(
            f"certificate: expected a digest of every tensor, found none of {uncertified[0]!r} "
            f"({len(uncertified)} missing); export the model again"
        )
    place = _place(provider, level, kernels)
    run = Run(f"certificate, {place}", images=count, differing_integers=None)
    found = _outputs(model, list(wanted), level, provider, threads, kernels)(source)
    for name, values in found.items():
        _count(run, model, name, certificate.digest(values) == wanted[name])
    plain = open_session(
        model.proto, level=level, provider=provider, threads=threads, kernels=kernels
    )
    logits = infer(plain, source)[0]
    last = list(wanted)[-1]
    _count(run, model, last, certificate.digest(logits) == wanted[last])
    return run


def _place(provider: str, level: str, kernels: bool) -> str:
    return f"{provider}{' kernels' if kernels else ''}, level {level}"


def _count(run: Run, model: ModelFile, name: str, equal: bool) -> None:
    run.tensors += 1
    if not equal:
        run.differing_tensors += 1
        if run.first is None:
            run.first = Divergence(name, str(model.tensors.get(name, {}).get("module", "")))


def compare(
    model: ModelFile,
    reference: Reference,
    batches: Iterable[NDArray[Any]],
    level: str = "all",
    *,
    provider: str = "cpu",
    threads: int = 0,
    kernels: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> Run:
    """Compare every tensor with a reference on image batches, counting differing integers.

    kernels: as in `check_certificate`. `advance` is called with the number of images after each
    batch.
    """
    if level not in LEVELS:
        raise InputError(f"verify: expected a level of {', '.join(LEVELS)}, found {level!r}")
    run = Run(f"reference, {_place(provider, level, kernels)}", differing_integers=0)
    session = None
    differing: set[str] = set()
    for batch in batches:
        expected = reference(batch)
        if session is None:
            session = _outputs(model, list(expected), level, provider, threads, kernels)
            run.tensors = len(expected)
        found = session(batch)
        for name, values in expected.items():
            if not np.array_equal(found[name], values) or found[name].dtype != values.dtype:
                differing.add(name)
                _locate(run, model, name, values, found[name])
        run.images += len(batch)
        advance(len(batch))
    run.differing_tensors = len(differing)
    return run


def _locate(
    run: Run, model: ModelFile, name: str, expected: NDArray[Any], found: NDArray[Any]
) -> None:
    module = str(model.tensors.get(name, {}).get("module", ""))
    assert run.differing_integers is not None
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        run.differing_integers += int(expected.size)
        kinds = (f"{values.dtype.name} {list(values.shape)}" for values in (expected, found))
        run.first = run.first or Divergence(name, module, None, *kinds)
        return
    wrong = np.argwhere(expected != found)
    run.differing_integers += len(wrong)
    if run.first is None:
        index = [int(i) for i in wrong[0]]
        at = tuple(index)
        run.first = Divergence(name, module, index, int(expected[at]), int(found[at]))


def _outputs(
    model: ModelFile, names: list[str], level: str, provider: str, threads: int, kernels: bool
) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    available = {name for node in model.proto.graph.node for name in node.output}
    missing = [name for name in names if name not in available]
    if missing:
        raise InputError(
            f"verify: expected {len(names)} named tensors in the model, found no {missing[0]!r} "
            f"({len(missing)} missing); export the model again"
        )
    watched = with_all_outputs(model.proto, names)
    session = open_session(
        watched, level=level, provider=provider, threads=threads, kernels=kernels
    )
    return lambda source: dict(zip(names, infer(session, source), strict=True))
