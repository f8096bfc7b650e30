"""Pack: attention reads the tensor that a qkv layer wrote, and writes one row per token.

Which views stand between does not matter: they are run once on the numbers of the elements, and
what arrives says which token, part, head and channel each element is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.registry import OPERATORS, PACKED_ATTENTION, WINDOW_ATTENTION
from mnq.toolchain.program import Program, Step
from mnq.toolchain.views import VIEWS

_MOVES = ("reshape", "transpose", "select", "slice", "gather")
_IMAGES = 2  # of an index map: what is between images shows


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of an attention step lie in the qkv tensor.

    source: the qkv tensor; split: the first view of it; order (W, N): its tokens by window.
    """

    source: str
    split: str
    order: torch.Tensor
    heads: int
    depth: int


def pack(program: Program) -> Program:
    """The program with packed attention wherever queries, keys and values are one layer's.

    Tokens in windows, also shifted ones, become the window operator's index maps.
    """
    made = {step.output: step for step in program.steps}
    steps = {step.output: [step] for step in program.steps}
    for step in program.steps:
        if step.operator not in PACKED_ATTENTION:
            continue
        layout = _layout(made, step)
        joined = layout and _joined(program, step, layout)
        packed = layout and _packed(step, layout, _qkv(made, step, layout))
        if layout and joined and packed:
            steps[step.output] = [*_split(made, step, layout), packed]
            flat = {"shape": joined.shape}
            steps[joined.output] = [
                replace(joined, operator="reshape", inputs=(packed.output,), settings=flat)
            ]
    return without_unread(replace(program, steps=[s for group in steps.values() for s in group]))


def without_unread(program: Program) -> Program:
    """The program without the steps that nothing reads."""
    needed, steps = {*program.outputs}, []
    for step in reversed(program.steps):
        if step.output in needed:
            needed.update(step.inputs)
            steps.append(step)
    return replace(program, steps=steps[::-1])


def _layout(made: dict[str, Step], attention: Step) -> _Layout | None:
    """The layout of q, k and v in one tensor (B, ..., 3 H d), or None if they have none."""
    chains = [_chain(made, name) for name in attention.inputs]
    sources = {chain[0].inputs[0] if chain else "" for chain in chains}
    source = made.get(sources.pop())
    if sources or source is None or source.shape[0] != -1 or -1 in source.shape[1:]:
        return None
    channels, all_elements = source.shape[-1], prod(source.shape[1:])
    tokens = all_elements // channels
    numbers = torch.arange(_IMAGES * all_elements).reshape(_IMAGES, *source.shape[1:])
    rows, depth = made[attention.inputs[0]].shape[-2:]
    heads, places = channels // (3 * depth), tokens // max(rows, 1)
    if 3 * heads * depth != channels or places * rows != tokens:
        return None
    order = None
    for part, chain in enumerate(chains):
        read: torch.Tensor | None = numbers
        for view in chain:
            read = None if read is None else _moved(view, read)
        expected = _IMAGES * tokens * heads * depth
        if read is None or read.numel() != expected or read.shape[-2:] != (rows, depth):
            return None
        read = read.reshape(_IMAGES, places, heads, rows, depth)
        token = read[0, :, 0, :, 0] // channels  # (W, N)
        order = token if order is None else order
        base = torch.arange(_IMAGES)[:, None, None] * all_elements + order * channels
        channel = (part * heads + torch.arange(heads))[:, None, None] * depth + torch.arange(depth)
        if not torch.equal(read, base[:, :, None, :, None] + channel):
            return None
    assert order is not None
    if not torch.equal(order.flatten().sort().values, torch.arange(tokens)):
        return None
    return _Layout(source.output, chains[0][0].output, order, heads, depth)


def _moved(step: Step, value: torch.Tensor) -> torch.Tensor | None:
    """What a move makes; None if it puts images together, and these are not as many as it takes."""
    if (
        value.numel() % prod(size for size in step.shape if size != -1)
        and step.operator == "reshape"
    ):
        return None
    return VIEWS[step.operator].run([value], _IMAGES, step.settings)


def _chain(made: dict[str, Step], name: str) -> list[Step]:
    """The moves that lead to a tensor, in order."""
    chain: list[Step] = []
    while name in made and made[name].operator in _MOVES:
        chain.insert(0, made[name])
        name = made[name].inputs[0]
    return chain


def _joined(program: Program, attention: Step, layout: _Layout) -> Step | None:
    """The last move behind an attention step that has its rows in the order of the tokens."""
    windows, rows = layout.order.shape
    width = layout.heads * layout.depth
    numbers = torch.arange(_IMAGES * windows * rows * width)
    by_head = numbers.reshape(_IMAGES, windows, layout.heads, rows, layout.depth)
    inverse = layout.order.flatten().argsort()
    wanted = by_head.transpose(2, 3).reshape(_IMAGES, -1, width)[:, inverse]
    found = None
    written: torch.Tensor | None = numbers.reshape(-1, *attention.shape[1:])
    step = only_reader(program, attention.output)
    while step is not None and step.operator in _MOVES:
        written = None if written is None else _moved(step, written)
        if written is None:
            break
        if torch.equal(written.flatten(), wanted.flatten()):
            found = step
        step = only_reader(program, step.output)
    return found


def only_reader(program: Program, name: str) -> Step | None:
    """The step that alone reads a tensor; None if others do, or the program returns it."""
    readers = [step for step in program.steps if name in step.inputs]
    return readers[0] if len(readers) == 1 and name not in program.outputs else None


def _shape(layout: _Layout) -> tuple[int, ...]:
    return (-1, layout.order.numel(), 3, layout.heads, layout.depth)


def _qkv(made: dict[str, Step], attention: Step, layout: _Layout) -> str:
    """Name of the tensor (B, T, 3, H, d): that of the first view if it makes it."""
    split = made[layout.split]
    same = split.operator == "reshape" and split.shape == _shape(layout)
    return split.output if same else f"{attention.output}.qkv"


def _split(made: dict[str, Step], attention: Step, layout: _Layout) -> list[Step]:
    """The reshape of the qkv tensor to parts and heads, where there is none yet."""
    name, shape = _qkv(made, attention, layout), _shape(layout)
    if name == layout.split:
        return []
    first = replace(made[layout.split], output=name, operator="reshape", shape=shape)
    return [replace(first, inputs=(layout.source,), settings={"shape": shape})]


def _packed(step: Step, layout: _Layout, qkv: str) -> Step | None:
    """The step on the qkv tensor; None if its constants differ from window to window."""
    windows, rows = layout.order.shape
    shape = (-1, windows * rows, layout.heads, layout.depth)
    operator = PACKED_ATTENTION[step.operator].name
    constants = {key: np.asarray(value) for key, value in step.constants.items()}
    if windows > 1 or not torch.equal(layout.order[0], torch.arange(rows)):
        operator = WINDOW_ATTENTION[step.operator].name
        shared = {name: _of_one_window(value, layout) for name, value in constants.items()}
        kept = {name: value for name, value in shared.items() if value is not None}
        if len(kept) < len(shared):
            return None
        constants = {**kept, **_planes(constants["bias"], layout), **_maps(layout.order)}
    names = OPERATORS[operator].inputs[1:]
    ordered = {name: constants[name] for name in names}
    return replace(step, operator=operator, inputs=(qkv,), constants=ordered, shape=shape)


def _of_one_window(value: NDArray[np.generic], layout: _Layout) -> NDArray[np.generic] | None:
    """A constant whose windows stand among the heads, of one window; None if they differ."""
    windows = layout.order.shape[0]
    if value.ndim != 3 or value.shape[0] != windows * layout.heads or windows == 1:
        return value
    split = value.reshape(windows, layout.heads, *value.shape[1:])
    return split[0] if (split == split[:1]).all() else None


def _planes(bias: NDArray[np.generic], layout: _Layout) -> dict[str, NDArray[np.generic]]:
    """The different biases that windows have, and which each has."""
    windows = layout.order.shape[0]
    bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
    if bias.shape[1] == windows * layout.heads and windows > 1:
        bias = bias.reshape(windows, layout.heads, *bias.shape[2:])
    planes, kind = np.unique(bias, axis=0, return_inverse=True)
    kinds = np.broadcast_to(kind.reshape(-1), (windows,))
    return {"bias": planes, "kind": kinds.astype(np.int64)}


def _maps(order: torch.Tensor) -> dict[str, NDArray[np.generic]]:
    return {"order": order.numpy(), "inverse": order.flatten().argsort().numpy()}
