"""Does a runtime compute the integers of the vectors in this folder? Exit status 0 if it does.

    python check.py functions reference     onnxruntime on the operators' functions, onnx.reference
    python check.py my_runtime.py           a file of yours with a function run(vector)

Needs numpy, onnx and the runtime; nothing of mnq.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from kit import HERE, Array, Vector, digest, onnx_folder, vectors, write_onnx

Runtime = Callable[[Vector], Sequence[Array] | None]
"""The integers of `vector.expected`, in its order; None if the runtime does not take the vector."""

RUNTIMES = sorted(path.stem for path in (HERE / "runtimes").glob("*.py"))
SHOWN = 20
"""Differences that are printed."""


@dataclass(frozen=True)
class Outcome:
    """One vector on one runtime; `fault` is empty if every integer is right."""

    row: str
    taken: bool
    fault: str = ""


def load(name: str) -> Runtime:
    """The function `run` of a file, or of the file of runtimes/ that has this name."""
    path = HERE / "runtimes" / f"{name}.py" if name in RUNTIMES else Path(name)
    spec = importlib.util.spec_from_file_location(f"runtime_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(
            f"check: expected {', '.join(RUNTIMES)} or a Python file, found {name!r}; correct it"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        run: Runtime = module.run
    except Exception as error:
        raise SystemExit(
            f"check: expected a function run in {path}, found {type(error).__name__}: {error}"
        ) from error
    return run


def difference(name: str, found: Array, expected: Array) -> str:
    """Names the first integer that differs; empty if none does."""
    for what, a, b in (
        ("type", found.dtype, expected.dtype),
        ("shape", found.shape, expected.shape),
    ):
        if a != b:
            return f"{name}: expected {what} {b}, found {a}"
    wrong = np.argwhere(found != expected)
    if not len(wrong):
        return ""
    at = tuple(int(i) for i in wrong[0])
    return (
        f"{name}{list(at)}: expected {expected[at]}, found {found[at]}; "
        f"{len(wrong)} of {found.size} integers differ"
    )


def outcome(run: Runtime, vector: Vector) -> Outcome:
    """What a runtime makes of a vector; an exception of it is a fault."""
    try:
        returned = run(vector)
        if returned is None:
            return Outcome(vector.row, False)
        pairs = zip(vector.expected.items(), returned, strict=True)
        faults = (difference(name, np.asarray(y), right) for (name, right), y in pairs)
        fault = next(filter(None, faults), "")
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    return Outcome(vector.row, True, fault and f"{vector.row}, {vector.name!r}, {fault}")


def cell(found: Sequence[Outcome]) -> str:
    """How some vectors went, for the table."""
    taken = sum(each.taken for each in found)
    wrong = sum(bool(each.fault) for each in found)
    return f"{wrong} WRONG of {taken}" if wrong else f"{taken} ok" if taken else "-"


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def report(names: Sequence[str], given: Sequence[Vector]) -> bool:
    """Run, print a table and the first differences; whether the runtimes conform."""
    runs = {name: load(name) for name in names}
    results = {name: [outcome(run, v) for v in given] for name, run in runs.items()}
    rows = [["", "vectors", *(Path(name).stem for name in names)]]
    for row, group in itertools.groupby(range(len(given)), lambda i: given[i].row):
        chosen = list(group)
        cells = [cell([results[name][i] for i in chosen]) for name in names]
        rows.append([row, str(len(chosen)), *cells])
    print("\n".join(table(rows)))
    good = True
    for name, found in results.items():
        faults = [each.fault for each in found if each.fault]
        taken = sum(each.taken for each in found)
        conforms = taken > 0 and not faults
        good = good and conforms
        verdict = "conforms" if conforms else "does NOT conform"
        print(f"\n{name} {verdict}: {taken} of {len(given)} vectors run, {len(faults)} wrong")
        for fault in faults[:SHOWN]:
            print(f"  {fault}")
        if faults[SHOWN:]:
            print(f"  and {len(faults) - SHOWN} more")
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runtimes", nargs="*", metavar="RUNTIME", help=f"{', '.join(RUNTIMES)}, or a Python file"
    )
    parser.add_argument("--only", default="", help="vectors of these rows: a regular expression")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the vectors are")
    parser.add_argument(
        "--write-onnx", type=Path, metavar="FOLDER", help="write them as ONNX test data and stop"
    )
    options = parser.parse_args(arguments)
    given = [v for v in vectors(options.folder) if re.search(options.only, v.row)]
    if not given or not (options.runtimes or options.write_onnx):
        parser.error(f"expected vectors and a runtime; runtimes are {', '.join(RUNTIMES)}")
    if options.write_onnx:
        for vector in given:
            name = re.sub(r"\W+", "_", f"{vector.row} {vector.name}".lower()).strip("_")
            write_onnx(vector, onnx_folder(options.write_onnx, name))
        print(f"{len(given)} vectors in {options.write_onnx}")
        return 0
    print(f"mnq conformance vectors {digest(options.folder)}, tolerance zero\n")
    return 0 if report(options.runtimes, given) else 1


if __name__ == "__main__":
    sys.exit(main())
