"""onnxruntime sessions that never fall back silently."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from mnq.ops.body import BATCH, IR_VERSION, OPSET
from mnq.ops.errors import EnvironmentLack, InputError
from mnq.ops.library import NAME, cuda_lacking, library_path, why_no_library
from mnq.runtime.assignment import RECORDED, STRICT, moved, records
from mnq.runtime.packed import unpack

if TYPE_CHECKING:
    import onnxruntime

MINIMUM = (1, 21)
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
"""onnxruntime's graph optimization levels by short name."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def load_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises EnvironmentLack if it is absent, broken, older than 1.21, or installed twice (the
    CPU and the GPU wheel overwrite each other's files).
    """
    installed = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if len(installed) == 2:
        raise EnvironmentLack(
            "onnxruntime: expected one of the two wheels, found onnxruntime and onnxruntime-gpu; "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one you need"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentLack(
            f"onnxruntime: expected it to import, found {error}; pip install 'mnq[cpu]' "
            "(or 'mnq[gpu]')"
        ) from error
    version = getattr(onnxruntime, "__version__", None)
    if not isinstance(version, str):
        raise EnvironmentLack(
            "onnxruntime: expected a whole package, found one without its files; "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'mnq[cpu]' (or "
            "'mnq[gpu]')"
        )
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        raise EnvironmentLack(
            f"onnxruntime: expected 1.21 or newer, found {version}; "
            f"pip install -U {next(iter(installed), 'onnxruntime')}"
        )
    return onnxruntime


def open_session(
    model: ModelProto | bytes | Path,
    *,
    level: str = "all",
    provider: str = "cpu",
    threads: int = 0,
    kernels: bool | None = None,
    profile: Path | None = None,
    batch: int | None = None,
    options: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """A session on exactly the provider asked for.

    model: a path takes least memory, but is for files that `modelfile.read` has let through:
    onnxruntime would follow paths inside.

    level: a key of LEVELS; provider: a key of PROVIDERS; threads: 0 lets onnxruntime choose.
    kernels: True runs our operators on the native library, False by the model's own functions;
    None on the library where there is one for the provider.
    profile: what the file with onnxruntime's profile begins with; None for no profile.
    batch: images in every run, so that onnxruntime computes all shapes beforehand; None for any.
    options: of the provider.

    Raises EnvironmentLack if the provider or the library is missing or did not start, InputError
    if onnxruntime or a kernel refuses the model.
    """
    ort = load_onnxruntime()
    wanted = PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise EnvironmentLack(
            f"onnxruntime: expected {wanted}, found {', '.join(ort.get_available_providers())}; "
            "pip install 'mnq[gpu]' in place of 'mnq[cpu]', or run mnq-doctor"
        )
    settings = ort.SessionOptions()
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile)
    if batch is not None:
        settings.add_free_dimension_override_by_name(BATCH, batch)
    library = kernel_library(provider, kernels)
    if library is not None:
        register(settings, library)
    watched = provider != "cpu"
    if watched:
        _preload(ort)
        for key, value in (RECORDED if records(ort) else STRICT).items():
            settings.add_session_config_entry(key, value)
    if library is not None and level == "disabled":
        model = unpack(_loaded(model))  # nobody else folds what kernels read as constants
    if isinstance(model, ModelProto):
        model = model.SerializeToString()
    source = str(model) if isinstance(model, Path) else model
    try:
        session = ort.InferenceSession(
            source, settings, providers=[(wanted, dict(options or {}))], enable_fallback=0
        )
    except Exception as error:
        if not _starts(ort, wanted):
            raise _not_started(wanted, _reason(error)) from error
        raise InputError(
            f"onnxruntime: expected a model that {wanted} runs, found: {_reason(error)}"
        ) from error
    if session.get_providers()[0] != wanted:
        raise _not_started(wanted, f"{session.get_providers()[0]} in its place")
    session.disable_fallback()
    if watched and records(ort):
        _check_unmoved(session, source, wanted)
    return session


def _check_unmoved(session: Any, source: bytes | str, wanted: str) -> None:
    model = _loaded(Path(source) if isinstance(source, str) else source)
    if names := moved(session, model, wanted):
        raise InputError(
            f"onnxruntime: expected every node on {wanted}, found {len(names)} that it moved to "
            f"the CPU, {', '.join(names[:3])}; export the model again, run it with kernels, or on "
            "the provider cpu"
        )


def _loaded(model: ModelProto | bytes | Path) -> ModelProto:
    if isinstance(model, Path):
        model = model.read_bytes()
    return ModelProto.FromString(model) if isinstance(model, bytes) else model


def kernel_library(provider: str, kernels: bool | None) -> Path | None:
    """The native library that a session loads; None if it runs the model's own functions.

    Raises EnvironmentLack if `kernels` is True and there is none for the provider.
    """
    if kernels is False:
        return None
    lacking = why_no_kernels(provider)
    if lacking and kernels:
        raise EnvironmentLack(f"kernels: {lacking}")
    return None if lacking else library_path()


def why_no_kernels(provider: str) -> str:
    """Why no kernels of ours run on a provider here; "" if they do."""
    path = library_path()
    if path is None:
        return f"expected {NAME}, found none: {why_no_library()}"
    return cuda_lacking(path) if provider == "cuda" else ""


def register(options: Any, library: Path) -> None:
    """Let sessions with these options run the kernels of a library.

    Raises EnvironmentLack if onnxruntime refuses it: it is damaged, or needs a newer one.
    """
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        raise EnvironmentLack(
            f"kernels: expected onnxruntime to load {library}, found: {_reason(error)}; "
            "or run without them: --no-kernels"
        ) from error


def infer(session: onnxruntime.InferenceSession, source: NDArray[Any]) -> list[NDArray[Any]]:
    """All outputs of a model with one input. Raises InputError if onnxruntime cannot run it."""
    return infer_named(session, {session.get_inputs()[0].name: source})


def infer_named(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """All outputs for inputs by name. Raises InputError if onnxruntime cannot run the model."""
    try:
        outputs: list[NDArray[Any]] = session.run(None, dict(feeds))
    except Exception as error:
        kinds = ", ".join(f"{values.dtype} {list(values.shape)}" for values in feeds.values())
        raise InputError(
            f"onnxruntime: expected to run the model on {kinds}, found: {_reason(error)}; export "
            "the model again"
        ) from error
    return outputs


def _preload(ort: Any) -> None:
    """Load the CUDA libraries of NVIDIA's Python packages, which no linker path names."""
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(sys.stderr):  # it prints what it misses
            ort.preload_dlls()


def _starts(ort: Any, wanted: str) -> bool:
    """Whether a provider runs the simplest model: if not, a refused model is not to blame."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.INT32, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "simplest", [x], [y])
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), providers=[wanted], enable_fallback=0
        )
    except Exception:
        return False
    return bool(session.get_providers()[0] == wanted)


def _not_started(wanted: str, found: str) -> EnvironmentLack:
    return EnvironmentLack(
        f"onnxruntime: expected {wanted} to start, found {found}; run mnq-doctor"
    )


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def with_all_outputs(model: ModelProto, names: list[str]) -> ModelProto:
    """A copy whose outputs are the named tensors, in this order."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.add().name = name
    return copy
