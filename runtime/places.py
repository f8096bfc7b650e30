"""All places that a model could run at, and why some of them are not here."""

from __future__ import annotations

from mnq.ops.errors import EnvironmentLack
from mnq.ops.library import library_path, why_no_library
from mnq.runtime.place import Place
from mnq.runtime.session import PROVIDERS, load_onnxruntime, why_no_kernels

PATHS = ("portable", "avx2", "avx512", "amx")
"""Every path that the native library can have, slowest first."""

EQUAL, DIFFERS, REFUSED, MISSING = "equal", "differs", "refused", "not run"
"""What becomes of a model at a place: the right integers, others, none; or there is no place."""


def kernel_paths() -> dict[str, str]:
    """By path of the kernels why it is not here, "" if it is."""
    from mnq.ops.kernels import paths

    try:
        if library_path() is None:
            return dict.fromkeys(PATHS, f"there is no native library: {why_no_library()}")
        here = paths()
    except (EnvironmentLack, OSError, AttributeError) as error:
        return dict.fromkeys(PATHS, f"the native library does not load: {error}")
    return {path: "" if path in here else f"this processor has no {path}" for path in PATHS}


def rows(threads: int) -> list[tuple[Place, str]]:
    """Every place at level `disabled`, and why it is not here, "" if it is; quick ones first.

    threads: how many, beside one.
    """
    counts = sorted({1, threads})
    found = [
        (Place("kernels", "disabled", threads=count, path=path), reason)
        for path, reason in kernel_paths().items()
        for count in counts
    ]
    found += [(Place("functions", "disabled", threads=count), "") for count in counts]
    available = load_onnxruntime().get_available_providers()
    for name, provider in PROVIDERS.items():
        if name != "cpu":
            has = ", ".join(available)
            reason = "" if provider in available else f"this onnxruntime has {has} only"
            found.append((Place("kernels", "disabled", name), reason or _gpu_kernels(name)))
            found.append((Place("functions", "disabled", name), reason))
    return [*found, (Place("reference"), "")]


def _gpu_kernels(provider: str) -> str:
    """Why our kernels do not run on a GPU, "" if they do."""
    try:
        return why_no_kernels(provider)
    except EnvironmentLack as error:
        return f"the native library does not load: {error}"
