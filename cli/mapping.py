"""Which map a command uses: --assign and --bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnq.ops.errors import InputError

if TYPE_CHECKING:
    from mnq.toolchain.map import Map

assign_option = click.option(
    "--assign",
    default="uniform:lut",
    show_default=True,
    help="map.json, or uniform:ivit|ibert|fqvit|lut.",
)
bits_option = click.option(
    "--bits",
    type=click.IntRange(2, 8),
    help="Code width for uniform maps; a map.json has its own.  [8]",
)


def chosen_map(assign: str, model: str, bits: int | None) -> Map:
    """The map of --assign: one method everywhere at `bits` (8 if None), or a file.

    Raises InputError for an unusable map, and for other bits than a file's.
    """
    from mnq.toolchain import map as maps

    if assign.startswith("uniform:"):
        return maps.uniform(model, assign.removeprefix("uniform:"), 8 if bits is None else bits)
    mapping = maps.read(Path(assign), model)
    if bits is not None and bits != mapping.activation_bits:
        raise InputError(
            f"--bits: expected {mapping.activation_bits} as in {assign}, found {bits}; leave "
            "--bits out or edit the map"
        )
    return mapping
