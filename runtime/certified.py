"""What a certificate certifies: its images, its tensors, and the right integers themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.errors import InputError, MnqError
from mnq.runtime import certificate
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.pieces import Pieces, image_name
from mnq.runtime.place import Arrays, Place


def images(model: ModelFile) -> NDArray[Any]:
    """The images of the certificate. Raises InputError if it is of others, or malformed."""
    certified, p = model.certificate, model.preprocess
    certificate.check_format(certified)
    shape = (p.channels, p.size, p.size)
    source = certificate.images(model.input_kind, shape, certified["seed"], certified["images"])
    if certificate.digest(source) != certified["input"]:
        raise InputError(
            "certificate: expected the images of its seed, found others; export the model again"
        )
    return source


def digests(model: ModelFile) -> dict[str, str]:
    """The digest of every certified tensor, in the order of execution.

    Raises InputError unless those are tensors of the graph, and all that are named are certified.
    """
    wanted: dict[str, str] = model.certificate["tensors"]
    uncertified = [name for name in model.tensors if name not in wanted]
    if uncertified:
        raise InputError(
            f"certificate: expected a digest of every tensor, found none of {uncertified[0]!r} "
            f"({len(uncertified)} missing); export the model again"
        )
    made = check_available(model, wanted)
    return {name: wanted[name] for name in made if name in wanted}


def check_available(model: ModelFile, wanted: Collection[str]) -> list[str]:
    """All tensors that the graph makes. Raises InputError unless the wanted ones are among them."""
    made = [name for node in model.proto.graph.node for name in node.output]
    there = set(made)
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(
            f"verify: expected {len(wanted)} named tensors in the model, found no {missing[0]!r} "
            f"({len(missing)} missing); export the model again"
        )
    return made


def returned(model: ModelFile) -> dict[str, str]:
    """By output of the graph the certified tensor that it is a copy of."""
    wanted, names = model.certificate["tensors"], copies(model)
    unknown = [name for name in names.values() if name not in wanted]
    if unknown:
        raise InputError(
            f"verify: expected outputs that are certified tensors, found {unknown[0]!r}; export "
            "the model again"
        )
    return names


def copies(model: ModelFile) -> dict[str, str]:
    """By output of the graph the tensor that it is a copy of, "" if it is none."""
    nodes = [node for node in model.proto.graph.node if node.op_type == "Identity"]
    copied = {name: node.input[0] for node in nodes for name in node.output if node.input}
    return {output.name: copied.get(output.name, "") for output in model.proto.graph.output}


@dataclass(frozen=True)
class Right:
    """The right integers by tensor name, in the order of execution, the image first.

    lost: the first tensor that nothing computes as certified from right inputs; those behind
    it are not known. None if all are.
    """

    values: dict[str, NDArray[Any]]
    lost: str | None


def right(model: ModelFile, note: Callable[[str], None] = lambda text: None) -> Right:
    """The certified integers, from whatever computes them: the functions without an optimizer,
    the kernels, and else onnx.reference, operator by operator.
    """
    source = images(model)
    wanted = digests(model)
    image = image_name(model.proto.graph)
    found: dict[str, NDArray[Any]] = {}
    for place in (Place("functions", "disabled"), Place("kernels", "disabled")):
        if len(found) < len(wanted):
            note(f"looking for the certified integers: {place}")
            found = {**_matching(model, place, {image: source}, wanted), **found}
    values = {image: source}
    pieces = Pieces(model.proto, wanted, values)
    referee = Place("reference")
    for name, digest in wanted.items():
        if name not in found:
            piece = pieces.cut(name)
            note(f"looking for the certified integers: {referee}, {name}")
            try:
                feeds = {key: values[key] for key in piece.inputs}
                found.update(referee.run(piece.model, feeds))
            except (KeyError, InputError):
                return Right(values, name)
            if certificate.digest(found[name]) != digest:
                return Right(values, name)
        values[name] = found[name]
    return Right(values, None)


def _matching(
    model: ModelFile, place: Place, feeds: Arrays, wanted: dict[str, str]
) -> dict[str, NDArray[Any]]:
    """The tensors that are as certified; none where the place is missing or refuses the model."""
    try:
        found = place.run(model.proto, feeds, list(wanted))
    except MnqError:
        return {}
    return {
        name: np.asarray(v) for name, v in found.items() if certificate.digest(v) == wanted[name]
    }
