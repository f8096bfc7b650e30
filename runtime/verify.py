"""Verify: the integers of an .onnx against a reference, tensor by tensor, tolerance zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.errors import InputError
from mnq.runtime import certificate, certified
from mnq.runtime.bisect import same
from mnq.runtime.contents import Change
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.pieces import image_name
from mnq.runtime.place import Arrays, Place, cpu_path
from mnq.runtime.purity import float_tensors
from mnq.runtime.session import LEVELS, kernel_library

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
    """One comparison: what ran, on how many images and tensors, and what differed.

    first_batch: the number of the batch in which `first` was found; None with a certificate.
    refused: why the model did not run, "" if it did.
    """

    name: str
    images: int = 0
    tensors: int = 0
    differing_tensors: int = 0
    differing_integers: int | None = 0
    first: Divergence | None = None
    first_batch: int | None = None
    place: Place | None = None
    refused: str = ""

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing differed."""
        return self.tensors > 0 and self.differing_tensors == 0


@dataclass
class Report:
    """Everything that `mnq-verify` found. changes: what in the file is not as certified."""

    model: str
    float_tensors: list[str]
    runs: list[Run] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the model is integer-only and as certified, and every comparison found equal
        integers.
        """
        whole = not self.float_tensors and not self.changes
        return whole and bool(self.runs) and all(run.passed for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**asdict(self), "passed": self.passed}


def check_purity(model: ModelFile) -> Report:
    """A report that holds the float tensors of the model and no comparison yet."""
    return Report(model.name, float_tensors(model.proto))


def forms(provider: str = "cpu", kernels: bool | None = None) -> tuple[bool, ...]:
    """What there is to compare: a model's functions (False), the kernels (True), or both.

    kernels: only those, or only the functions; None for all that the provider has. On a GPU that
    is the kernels: onnxruntime moves most of what functions are made of to the CPU.

    Raises EnvironmentLack if `kernels` is True and there are none.
    """
    if kernel_library(provider, kernels) is None:
        return (False,)
    return (False, True) if kernels is None and provider == "cpu" else (True,)


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
    """
    return check_at(model, _place(level, provider, threads, kernels))


def check_at(model: ModelFile, place: Place) -> Run:
    """`check_certificate` at a place.

    The model also runs as deployed, with its outputs only, since reading inner tensors keeps
    the optimizer from fusing across them.
    """
    source = certified.images(model)
    wanted = certified.digests(model)
    returned = certified.returned(model)
    name = f"certificate, {place}"
    run = Run(name, images=len(source), differing_integers=None, place=place)
    watched, deployed = _both(model, place, {image_name(model.proto.graph): source}, [*wanted])
    for name, values in watched.items():
        _count(run, model, name, certificate.digest(values) == wanted[name])
    for output, name in returned.items():
        _count(run, model, name, certificate.digest(deployed[output]) == wanted[name])
    return run


def _both(
    model: ModelFile, place: Place, feeds: Arrays, names: list[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The named tensors, and the outputs as deployed, computed side by side: the start of a
    session takes one core, and longer than the run.
    """
    if place.engine == "reference":  # it does the same whatever is read
        outputs = [output.name for output in model.proto.graph.output]
        found = place.run(model.proto, feeds, [*names, *outputs])
        return {n: found[n] for n in names}, {n: found[n] for n in outputs}
    with cpu_path(place.path), ThreadPoolExecutor(2) as pool:
        here = replace(place, path="")
        jobs = [pool.submit(here.run, model.proto, feeds, what) for what in (names, None)]
        watched, deployed = (job.result() for job in jobs)
    return watched, deployed


def _place(level: str, provider: str, threads: int, kernels: bool) -> Place:
    return Place("kernels" if kernels else "functions", level, provider, threads)


def _count(run: Run, model: ModelFile, name: str, equal: bool) -> None:
    run.tensors += 1
    if not equal:
        run.differing_tensors += 1
        if run.first is None:
            run.first = Divergence(name, model.module(name))


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
    place = _place(level, provider, threads, kernels)
    run = Run(f"reference, {place}", differing_integers=0, place=place)
    runner = None
    differing: set[str] = set()
    for number, batch in enumerate(batches):
        expected = reference(batch)
        if runner is None:
            certified.check_available(model, expected)
            runner = place.open(model.proto, list(expected))
            run.tensors = len(expected)
        found = runner({image_name(model.proto.graph): batch})
        for name, values in expected.items():
            if not same(found[name], values):
                differing.add(name)
                _locate(run, model, name, values, found[name])
        if run.first_batch is None and differing:
            run.first_batch = number
        run.images += len(batch)
        advance(len(batch))
    run.differing_tensors = len(differing)
    return run


def _locate(
    run: Run, model: ModelFile, name: str, expected: NDArray[Any], found: NDArray[Any]
) -> None:
    module = model.module(name)
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
