"""A place: what runs a model, and how. All that could change an integer, and must not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto

from mnq.ops.errors import InputError
from mnq.runtime.session import infer_named, open_session, with_all_outputs

PATH_VARIABLE = "MNQ_CPU_PATH"

Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[[Arrays], dict[str, NDArray[Any]]]
"""Inputs by name -> outputs by name."""


@dataclass(frozen=True)
class Place:
    """What runs a model, and how.

    engine: "functions" (the model's own, in onnxruntime), "kernels" (ours, in onnxruntime) or
    "reference" (onnx.reference: ONNX's own definition of every operator, in numpy, without an
    optimizer, to which nothing below applies).
    level, provider, threads: as for `session.open_session`.
    path: of the kernels; "" for the one that they choose.
    """

    engine: str = "functions"
    level: str = "all"
    provider: str = "cpu"
    threads: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.engine == "reference":
            return "onnx.reference"
        where = self.provider + (" kernels" if self.engine == "kernels" else "")
        if self.path:
            where += f" {self.path}"
        if self.threads:
            where += f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{where}, level {self.level}"

    def to_json(self) -> dict[str, Any]:
        """The place as a JSON object."""
        return {"engine": "reference"} if self.engine == "reference" else asdict(self)

    def open(self, model: ModelProto, names: list[str] | None = None) -> Runner:
        """A model made ready here; names: the tensors to read, default: its outputs.

        Raises InputError if the model is refused, EnvironmentLack if the place is not there.
        """
        wanted = [output.name for output in model.graph.output] if names is None else names
        if self.engine == "reference":
            return _referee(model, wanted)
        watched = model if names is None else with_all_outputs(model, wanted)
        with cpu_path(self.path):
            session = open_session(
                watched,
                level=self.level,
                provider=self.provider,
                threads=self.threads,
                kernels=self.engine == "kernels",
            )
        return lambda feeds: dict(zip(wanted, infer_named(session, feeds), strict=True))

    def run(
        self, model: ModelProto, feeds: Arrays, names: list[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Tensors of a model for inputs by name. Raises as `open` does."""
        return self.open(model, names)(feeds)


def _referee(model: ModelProto, wanted: list[str]) -> Runner:
    from onnx.reference import ReferenceEvaluator

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        try:
            evaluator = ReferenceEvaluator(model)
            return dict(zip(wanted, evaluator.run(wanted, dict(feeds)), strict=True))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
            raise InputError(
                f"onnx.reference: expected to run the model, found: {reason}; export it again"
            ) from error

    return run


@contextmanager
def cpu_path(name: str) -> Iterator[None]:
    """Sessions that start inside have kernels of this path; "" changes nothing.

    The library reads the variable whenever a session makes a kernel, so one process can have
    them all.
    """
    before = os.environ.get(PATH_VARIABLE)
    if name:
        os.environ[PATH_VARIABLE] = name
    try:
        yield
    finally:
        if name:
            os.environ.pop(PATH_VARIABLE)
            if before is not None:
                os.environ[PATH_VARIABLE] = before
