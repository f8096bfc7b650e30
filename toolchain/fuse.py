"""Fuse: views vanish where an operator reads or writes the tensor as it is without them.

Every tensor that is left has its name and its integers; those of fused attention are in the order
(B, N, H, d) instead of (B, H, N, d).
"""

from __future__ import annotations

from dataclasses import replace

from mnq.ops.registry import PACKED_ATTENTION
from mnq.toolchain.program import Program, Step

_SEPARATE = (2, 0, 3, 1, 4)  # (B, N, 3, H, d) to (3, B, H, N, d)
_JOIN = (0, 2, 1, 3)  # (B, H, N, d) to (B, N, H, d)
_CUT = (0, 2, 4, 1, 3, 5)  # (B, C, H/P, P, W/Q, Q) to (B, H/P, W/Q, C, P, Q)


def fuse(program: Program) -> Program:
    """The program with these replacements; what does not fit exactly stays.

    1. transpose of qkv, select 0, 1 and 2, Attention, transpose: the packed operator on qkv.
    2. reshape, transpose, reshape of the image into patches: it enters as patches.
    """
    return _cut_image(_pack_attention(program))


def _pack_attention(program: Program) -> Program:
    made = {step.output: step for step in program.steps}
    fused: dict[str, Step] = {}
    renamed: dict[str, str] = {}
    for step in program.steps:
        if step.operator not in PACKED_ATTENTION:
            continue
        qkv, joined = _packed_source(made, step), _only_reader(program, step.output)
        if qkv and joined and _transposes(joined, _JOIN):
            name = PACKED_ATTENTION[step.operator].name
            fused[step.output] = replace(step, operator=name, inputs=(qkv,), shape=joined.shape)
            renamed[joined.output] = step.output
    steps = [fused.get(step.output, step) for step in program.steps]
    return _without_views(replace(program, steps=steps), renamed)


def _packed_source(made: dict[str, Step], attention: Step) -> str:
    """The tensor (B, N, 3, H, d) whose parts are the query, key and value; "" if there is none."""
    parts = [made.get(name) for name in attention.inputs]
    sources = set()
    for index, part in enumerate(parts):
        if part is None or part.operator != "select":
            return ""
        if (part.settings["axis"], part.settings["index"]) != (0, index):
            return ""
        sources.add(part.inputs[0])
    separated = made.get(sources.pop())
    if sources or separated is None or not _transposes(separated, _SEPARATE):
        return ""
    return separated.inputs[0] if separated.shape[0] == 3 else ""


def _cut_image(program: Program) -> Program:
    image = program.image
    split = _only_reader(program, image.name)
    moved = split and _only_reader(program, split.output)
    flat = moved and _only_reader(program, moved.output)
    if not (split and moved and flat) or flat.output == program.output:
        return program
    kinds = [step.operator for step in (split, moved, flat)]
    if kinds != ["reshape", "transpose", "reshape"] or len(split.shape) != 6:
        return program
    cut = replace(image, patch=(split.shape[3], split.shape[5]))
    shapes = [tuple(cut.constants()[name].tolist()) for name in ("split", "flat")]
    if not _transposes(moved, _CUT) or [split.shape, flat.shape] != shapes:
        return program
    return _without_views(replace(program, image=cut), {flat.output: image.name})


def _transposes(step: Step, perm: tuple[int, ...]) -> bool:
    return step.operator == "transpose" and tuple(step.settings["perm"]) == perm


def _only_reader(program: Program, name: str) -> Step | None:
    """The step that alone reads a tensor; None if others do, or the program returns it."""
    readers = [step for step in program.steps if name in step.inputs]
    return readers[0] if len(readers) == 1 and name != program.output else None


def _without_views(program: Program, renamed: dict[str, str]) -> Program:
    """`renamed` tensors are read under their new names; steps that nothing reads then go."""
    output = renamed.get(program.output, program.output)
    needed, steps = {output}, []
    for step in reversed(program.steps):
        if step.output in needed:
            inputs = tuple(renamed.get(name, name) for name in step.inputs)
            needed.update(inputs)
            steps.append(replace(step, inputs=inputs))
    return replace(program, steps=steps[::-1], output=output)
