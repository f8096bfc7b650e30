import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from runtime_tiny import Tiny, add_node

from mnq.ops.errors import EnvironmentLack, InputError
from mnq.runtime import session
from mnq.runtime.session import LEVELS, infer, load_onnxruntime, open_session, with_all_outputs

CPU, CUDA = session.PROVIDERS["cpu"], session.PROVIDERS["cuda"]

Install = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that makes importlib.metadata report these distributions only."""

    def install(**versions: str) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "version", version)

    return install


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module in the place of onnxruntime, empty but for its version."""
    module = ModuleType("onnxruntime")
    module.__dict__["__version__"] = "1.31.1"
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module


def lacking(match: str) -> Any:
    return pytest.raises(EnvironmentLack, match=f"^onnxruntime: expected {match}")


def test_both_wheels_at_once_are_refused(installed: Install, fake: ModuleType) -> None:
    installed(**{"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"})
    with lacking("one of the two wheels, found onnxruntime and onnxruntime-gpu; pip uninstall"):
        load_onnxruntime()


def test_either_wheel_is_enough(installed: Install, fake: ModuleType) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        installed(**{name: "1.31.1"})
        assert load_onnxruntime() is fake


def test_no_wheel_is_an_error_that_names_the_extras(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails
    with lacking(r"it to import, found .*; pip install 'mnq\[cpu\]' \(or 'mnq\[gpu\]'\)"):
        load_onnxruntime()


@pytest.mark.parametrize("wheel", ["onnxruntime", "onnxruntime-gpu"])
@pytest.mark.parametrize("version", ["1.20.2", "1.9.0", "0.5"])
def test_an_old_version_is_refused(
    installed: Install, fake: ModuleType, wheel: str, version: str
) -> None:
    installed(**{wheel: version})
    fake.__dict__["__version__"] = version
    with lacking(f"1.21 or newer, found {version}; pip install -U {wheel}$"):
        load_onnxruntime()


@pytest.mark.parametrize("version", ["1.21.0", "1.22.0.dev20250101", "2.0"])
def test_a_new_version_is_taken(installed: Install, fake: ModuleType, version: str) -> None:
    installed(onnxruntime=version)
    fake.__dict__["__version__"] = version
    assert load_onnxruntime() is fake


def test_a_folder_left_by_an_uninstall_is_refused(installed: Install, fake: ModuleType) -> None:
    installed()
    del fake.__dict__["__version__"]
    with lacking("a whole package, found one without its files; pip uninstall"):
        load_onnxruntime()


@pytest.mark.onnxruntime
def test_a_missing_provider_is_an_error(proto: ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["Other", CPU])
    with lacking(f"{CUDA}, found Other, {CPU}; pip install 'mnq.gpu.' in place of"):
        open_session(proto, provider="cuda")


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_listed_provider_that_does_not_start_is_no_fault_of_the_model(
    proto: ModelProto, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(session.PROVIDERS, "cuda", "AbsentExecutionProvider")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["AbsentExecutionProvider"])
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: print("no libx"), raising=False)
    with lacking("AbsentExecutionProvider to start, found .*; run mnq-doctor"):
        open_session(proto, provider="cuda")
    captured = capsys.readouterr()
    assert captured.out == ""  # results go there
    assert "no libx" in captured.err


@pytest.mark.onnxruntime
@pytest.mark.parametrize("message", ["refused\nand more", ""])
def test_a_session_on_another_provider_is_refused(
    proto: ModelProto, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    class Fallen:
        def __init__(self, *_: object, **options: object) -> None:
            assert options["providers"] in ([CUDA], [(CUDA, {})])
            assert options["enable_fallback"] == 0

        def get_providers(self) -> list[str]:
            return [CPU]

    class Refusing(Fallen):
        def __init__(self, model: bytes, *_: object, **__: object) -> None:
            if model == proto.SerializeToString():
                raise RuntimeError(message)

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr("onnxruntime.InferenceSession", Fallen)
    with lacking(f"{CUDA} to start, found {CPU} in its place; run mnq-doctor"):
        open_session(proto, provider="cuda")
    monkeypatch.setattr("onnxruntime.InferenceSession", Refusing)
    with lacking(f"{CUDA} to start, found {message.splitlines()[0] if message else 'Runtime'}"):
        open_session(proto, provider="cuda")
    monkeypatch.setattr(Fallen, "get_providers", lambda _: [CUDA])
    with pytest.raises(InputError, match=f"^onnxruntime: expected a model that {CUDA} runs"):
        open_session(proto, provider="cuda")


@pytest.mark.onnxruntime
def test_a_model_that_onnxruntime_cannot_run_is_refused(proto: ModelProto) -> None:
    add_node(proto, "NoSuchOperator", ["image"], "extra", "mnq")
    with pytest.raises(InputError, match=f"^onnxruntime: expected a model that {CPU} runs") as e:
        open_session(proto)
    assert "\n" not in str(e.value)


@pytest.mark.onnxruntime
def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(InputError, match=f"^onnxruntime: expected a model that {CPU} runs"):
        open_session(b"text")


@pytest.mark.onnxruntime
@pytest.mark.parametrize(
    "kernels", [False, pytest.param(True, marks=pytest.mark.native)], ids=["functions", "kernels"]
)
@pytest.mark.parametrize("level", LEVELS)
def test_sessions_run_on_the_provider_at_every_level(tiny: Tiny, level: str, kernels: bool) -> None:
    opened = open_session(tiny.data, level=level, threads=1, kernels=kernels)
    options = opened.get_session_options()
    assert opened.get_providers() == [CPU]
    assert options.intra_op_num_threads == 1
    assert options.graph_optimization_level.name == LEVELS[level]
    (logits,) = infer(opened, tiny.images)
    np.testing.assert_array_equal(logits, tiny.reference(tiny.images)["head"])


@pytest.mark.onnxruntime
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(tiny: Tiny, shape: tuple[int, ...]) -> None:
    opened = open_session(tiny.data)
    with pytest.raises(InputError, match=r"^onnxruntime: expected to run .* uint8 \[") as caught:
        infer(opened, np.zeros(shape, np.uint8))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="float32"):
        infer(opened, tiny.images.astype(np.float32))


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """An install without the native library."""
    monkeypatch.setattr(session, "library_path", lambda: None)
    monkeypatch.setattr(session, "why_no_library", lambda: "expected a compiler; install one")


def test_without_a_library_models_run_unless_it_is_asked_for(no_library: None) -> None:
    assert session.kernel_library("cpu", None) is None
    assert session.kernel_library("cpu", False) is None
    with pytest.raises(
        EnvironmentLack, match=r"^kernels: expected libmnq_ops\.so, found none: exp"
    ):
        session.kernel_library("cpu", True)


@pytest.mark.native
def test_kernels_for_gpus_need_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "cuda_lacking", lambda _: "expected a GPU, found none; get one")
    assert session.kernel_library("cuda", None) is None
    assert session.kernel_library("cuda", False) is None
    assert session.why_no_kernels("cuda") == "expected a GPU, found none; get one"
    with pytest.raises(EnvironmentLack, match=r"^kernels: expected a GPU, found none; get one$"):
        session.kernel_library("cuda", True)
    monkeypatch.setattr(session, "cuda_lacking", lambda _: "")
    assert session.kernel_library("cuda", None) == session.kernel_library("cpu", True)
    assert session.kernel_library("cuda", False) is None


@pytest.mark.onnxruntime
def test_a_node_that_moves_to_the_cpu_is_an_error(
    proto: ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(session.PROVIDERS, "cuda", CPU)  # as if it were the GPU's
    open_session(proto, provider="cuda", kernels=False)
    monkeypatch.setattr(session, "moved", lambda *_: ["a", "b", "c", "d"])
    with pytest.raises(InputError, match=f"every node on {CPU}, found 4 that .* a, b, c; ex"):
        open_session(proto, provider="cuda", kernels=False)


@pytest.mark.native
def test_the_library_is_used_where_there_is_one() -> None:
    assert session.kernel_library("cpu", None) == session.kernel_library("cpu", True)
    assert session.kernel_library("cpu", False) is None


@pytest.mark.onnxruntime
@pytest.mark.native
@pytest.mark.parametrize("kernels", [None, True, False])
def test_kernels_are_used_unless_they_are_not_wanted(tiny: Tiny, kernels: bool | None) -> None:
    """Seen by a bias of another type, which kernels refuse and functions take."""
    changed = tiny.copy()
    node = next(node for node in changed.graph.node if node.op_type == "QLinear")
    bias = next(tensor for tensor in changed.graph.initializer if tensor.name == node.input[2])
    wide = numpy_helper.to_array(bias).astype(np.int64)
    bias.CopyFrom(numpy_helper.from_array(wide, bias.name))
    if kernels is False:
        open_session(changed, kernels=kernels)
        return
    with pytest.raises(InputError, match=r"mnq\.QLinear node .*'bias': expected int32"):
        open_session(changed, kernels=kernels)


@pytest.mark.onnxruntime
def test_a_library_that_does_not_load_is_named(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "libmnq_ops.so").write_text("text")
    monkeypatch.setenv("MNQ_OPS_LIBRARY", str(tmp_path / "libmnq_ops.so"))
    with pytest.raises(
        EnvironmentLack, match=r"^kernels: expected onnxruntime to load /.*; or run"
    ):
        open_session(tiny.data)
    open_session(tiny.data, kernels=False)


def test_all_outputs_are_the_named_tensors_in_this_order(tiny: Tiny, proto: ModelProto) -> None:
    names = ["norm", "input.codes", "head"]
    changed = with_all_outputs(proto, names)
    assert [output.name for output in changed.graph.output] == names
    assert proto == tiny.copy()
