"""Proves that no integer of a program can overflow, whatever the image."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mnq.ops.errors import CheckFailed
from mnq.ops.integer import INT8, INT16, INT32
from mnq.ops.interval import Interval, codes, constant
from mnq.ops.operator import Operator
from mnq.ops.patches.op import patches
from mnq.ops.proof import Overflow, Trace, bits_of
from mnq.ops.registry import OPERATORS
from mnq.runtime.overflow import Proven
from mnq.toolchain.image import ImageInput
from mnq.toolchain.program import Inputs, Program, Step
from mnq.toolchain.views import VIEWS

Range = tuple[int, int]

_WIDTHS = {INT8: 8, INT16: 16, INT32: 32}
_PIXELS, _CODES = (0, 255), (-128, 127)


def prove(program: Program) -> list[Proven]:
    """Every tensor's range, in the program's order: proved operator by operator from the image's.

    Raises CheckFailed, which names tensor, operator, step and constant, if anything may overflow.
    """
    return [*_walk(program)]


def _walk(program: Program) -> Iterator[Proven]:
    image = _image(program.image)
    yield image
    known = {image.tensor: image} | {
        name: _proven(name, "", (int(value.min()), int(value.max())), value.dtype.itemsize * 8)
        for name, value in program.constants.items()
    }
    shapes = {name: value.shape for name, value in program.constants.items()}
    shapes[image.tensor] = _shape(program.image)
    for step in program.steps:
        inputs = [known[name] for name in step.inputs]
        if step.operator in VIEWS:
            row = _moved(step, inputs)
        else:
            ranges = [(each.lo, each.hi) for each in inputs]
            row = _made(step, ranges, [shapes[name] for name in step.inputs])
        known[step.output], shapes[step.output] = row, step.shape
        yield row


def _proven(
    tensor: str, operator: str, ends: Range, width: int, trace: Trace | None = None
) -> Proven:
    places = {} if trace is None else trace.places
    inside = {kind: (place.bits, place.step) for kind, place in sorted(places.items())}
    return Proven(tensor, operator, *ends, bits_of(*ends), width, inside)


def _image(image: ImageInput) -> Proven:
    """The codes of the image: what Patches makes of it, or what enters."""
    if image.patch is None:
        return _proven(image.name, "", _CODES, 8)
    trace = Trace()
    ends = _PIXELS if image.kind == "uint8" else _CODES
    made = _run(patches, [ends], [(-1, *image.shape)], image.constants(), {}, trace)
    return _proven(image.name, patches.name, made.ends, 8, trace)


def _shape(image: ImageInput) -> tuple[int, ...]:
    if image.patch is None:
        return (-1, *image.shape)
    return (-1, *image.constants()["flat"].tolist()[1:])


def _moved(step: Step, inputs: list[Proven]) -> Proven:
    """A view: the ranges of all that it moves, and of the zeros that it adds."""
    ends = [end for each in inputs for end in (each.lo, each.hi)]
    if step.operator == "pad":
        ends.append(0)
    return _proven(step.output, step.operator, (min(ends), max(ends)), inputs[0].width)


def _made(step: Step, ranges: list[Range], shapes: list[tuple[int, ...]]) -> Proven:
    trace, operator = Trace(), OPERATORS[step.operator]
    try:
        made = _run(operator, ranges, shapes, step.constants, step.settings, trace)
    except Overflow as error:
        blame = f" because of {error.blame}" if error.blame else ""
        raise CheckFailed(
            f"export: expected integers that cannot overflow, found tensor {step.output!r} of "
            f"module {step.module or '(top)'!r}, where {step.operator} {error.problem}{blame} in "
            f"`{error.step}` ({error.where}); check these weights and the calibrated scales, or "
            "choose another method there"
        ) from error
    assert made.shape[made.cases :] == step.shape, "sums have as many terms as the shapes say"
    width = _WIDTHS[step.settings.get("to", INT8)]
    return _proven(step.output, step.operator, made.ends, width, trace)


def _run(
    operator: Operator,
    ranges: list[Range],
    shapes: list[tuple[int, ...]],
    constants: Inputs,
    settings: dict[str, int],
    trace: Trace,
) -> Interval:
    """The operator's output range for activations in `ranges`."""
    names = operator.inputs[: len(ranges)]
    others = operator.inputs[len(ranges) :]
    given = [
        codes(name, *ends, shape, trace)
        for name, ends, shape in zip(names, ranges, shapes, strict=True)
    ]
    given += [constant(n, torch.as_tensor(constants[n]).cpu().numpy(), trace) for n in others]
    result: Interval = operator(*given, **settings)
    return result
