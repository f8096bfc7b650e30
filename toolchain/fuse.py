"""Fuse: tensors vanish where an operator reads or writes what is before or behind them as well.

Every tensor that is left has its name and its integers; those of fused attention are in the order
(B, N, H, d) instead of (B, H, N, d).
"""

from __future__ import annotations

from dataclasses import replace

from mnq.toolchain.lookup import look_up
from mnq.toolchain.pack import only_reader, pack, without_unread
from mnq.toolchain.program import Program, Step

_CUT = (0, 2, 4, 1, 3, 5)  # (B, C, H/P, P, W/Q, Q) to (B, H/P, W/Q, C, P, Q)


def fuse(program: Program) -> Program:
    """The program with these replacements; what does not fit exactly stays.

    1. Attention on parts of one qkv tensor: the packed or the window operator (pack.py).
    2. reshape, transpose, reshape of the image into patches: it enters as patches.
    3. A linear layer and the elementwise operator behind it: one operator (lookup.py).
    """
    return look_up(fuse_views(program))


def fuse_views(program: Program) -> Program:
    """The first two replacements alone: every site keeps a step of its own."""
    return _cut_image(pack(program))


def _cut_image(program: Program) -> Program:
    image = program.image
    split = only_reader(program, image.name)
    moved = split and only_reader(program, split.output)
    flat = moved and only_reader(program, moved.output)
    if not (split and moved and flat) or flat.output in program.outputs:
        return program
    kinds = [step.operator for step in (split, moved, flat)]
    if kinds != ["reshape", "transpose", "reshape"] or len(split.shape) != 6:
        return program
    cut = replace(image, patch=(split.shape[3], split.shape[5]))
    shapes = [tuple(cut.constants()[name].tolist()) for name in ("split", "flat")]
    if not _transposes(moved, _CUT) or [split.shape, flat.shape] != shapes:
        return program
    steps = [
        replace(s, inputs=tuple(image.name if n == flat.output else n for n in s.inputs))
        for s in program.steps
    ]
    return without_unread(replace(program, image=cut, steps=steps))


def _transposes(step: Step, perm: tuple[int, ...]) -> bool:
    return step.operator == "transpose" and tuple(step.settings["perm"]) == perm
