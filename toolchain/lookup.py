"""Lookup: an elementwise operator behind a linear layer becomes the layer's table.

The table is what the operator itself gives for all 256 codes, hence the same integers. The tensor
between the two is gone; the step has the name and the site of the operator's, and both modules.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mnq.ops.integer import INT8
from mnq.ops.qlinear.op import qlinear
from mnq.ops.qlinear_lut.op import qlinear_lut
from mnq.ops.registry import OPERATORS
from mnq.toolchain.pack import only_reader, without_unread
from mnq.toolchain.program import Program, Step

_CODES = torch.arange(-128, 128).to(torch.int8)
_ELEMENTWISE = {name for name, operator in OPERATORS.items() if operator.elementwise}


def look_up(program: Program) -> Program:
    """The program with QLinearLut wherever an elementwise operator alone reads a layer's codes.

    Both write 8-bit codes, and the program does not return the layer's; anything else stays.
    """
    narrow = {step.output: step for step in program.steps if step.settings.get("to") == INT8}
    layers = {name: step for name, step in narrow.items() if step.operator == qlinear.name}
    steps = []
    for step in program.steps:
        if step.operator in _ELEMENTWISE and step.output in narrow:
            layer = layers.get(step.inputs[0])
            if layer is not None and only_reader(program, layer.output) is not None:
                step = _looked_up(layer, step)
        steps.append(step)
    return without_unread(replace(program, steps=steps))


def _looked_up(layer: Step, step: Step) -> Step:
    """Both as one step, in the place of the second."""
    modules = dict.fromkeys(name for name in (layer.module, step.module) if name)
    return replace(
        step,
        operator=qlinear_lut.name,
        inputs=layer.inputs,
        constants={**layer.constants, "table": step.run([_CODES], 1).numpy()},
        settings={},
        module=", ".join(modules),
    )
