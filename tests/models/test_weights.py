import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnq.models import weights
from mnq.ops.errors import InputError

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
timm = pytest.importorskip("timm")


class Tiny(torch.nn.Module):
    """Two layers and a buffer that is no float."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(3, 4)
        self.fc2 = torch.nn.Linear(4, 2)
        self.register_buffer("steps", torch.tensor([1, 2]))


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return Tiny()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.bin"])
@pytest.mark.parametrize("wrap", [(), ("model",), ("state_dict",), ("model", "state_dict")])
def test_read_returns_the_state(tmp_path: Path, model: Any, name: str, wrap: tuple[str]) -> None:
    content: Any = model.state_dict()
    if name == "w.safetensors":
        safetensors_torch.save_file(content, tmp_path / name)
    else:
        for key in reversed(wrap):
            content = {key: content, "epoch": 3}
        torch.save(content, tmp_path / name)
    state = weights.read(tmp_path / name)
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


class Evil:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_read_runs_no_code_of_the_file(tmp_path: Path, model: Any, zipped: bool) -> None:
    content = {"model": model.state_dict(), "args": Evil(tmp_path / "ran")}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"tensors only.*other Python objects; save its state"):
        weights.read(tmp_path / "w.pth")
    (tmp_path / "w.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(InputError):
        weights.read(tmp_path / "w.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("keep", [0, 4, 40, -1, -30])
def test_read_refuses_a_truncated_file(tmp_path: Path, model: Any, name: str, keep: int) -> None:
    path = tmp_path / name
    save = safetensors_torch.save_file if name == "w.safetensors" else torch.save
    save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"^weights: expected .* found ") as caught:
        weights.read(path)
    assert "\n" not in str(caught.value)


def test_read_refuses_a_missing_file_or_another_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a file at .*w\.pth, found none"):
        weights.read(tmp_path / "w.pth")
    (tmp_path / "w.npz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"\.safetensors, \.pth, \.pt, \.bin, found w\.npz"):
        weights.read(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1], "a list"),
        ({"a": 1}, "keys a;"),
        ({"model": {"x\n": "y"}}, r"keys x\\n;"),
        (3, "a int"),
    ],
)
def test_read_refuses_what_are_no_named_tensors(
    tmp_path: Path, content: object, found: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"expected named tensors.*found .*{found}"):
        weights.read(tmp_path / "w.pth")


def test_load_into_copies_and_converts_to_float32(model: Any) -> None:
    state = {k: v * 2 for k, v in model.state_dict().items()}
    state["fc1.weight"] = state["fc1.weight"].double()
    weights.load_into(model, state, "w.pth")
    assert model.fc1.weight.dtype == torch.float32
    assert torch.equal(model.fc1.weight, state["fc1.weight"].float())
    assert torch.equal(model.steps, torch.tensor([2, 4]))


def test_load_into_names_missing_and_unknown_tensors(model: Any) -> None:
    state = dict(model.state_dict())
    del state["fc1.bias"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(5)}
    with pytest.raises(InputError) as caught:
        weights.load_into(model, state, "w.pth")
    assert "the model's 5 tensors in w.pth, found 1 missing (fc1.bias) and 5 unknown " in str(
        caught.value
    )
    assert "(extra0, extra1, extra2, ...)" in str(caught.value)


def test_load_into_names_a_wrong_shape(model: Any) -> None:
    state = model.state_dict() | {"fc2.weight": torch.zeros(7, 4), "fc2.bias": torch.zeros(7)}
    with pytest.raises(
        InputError, match=r"fc2\.weight of shape \(2, 4\) .* found \(7, 4\) \(2 of 5"
    ):
        weights.load_into(model, state, "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_load_into_names_a_tensor_that_is_not_finite(model: Any, value: float) -> None:
    bias = torch.zeros(4, dtype=torch.float64)
    bias[1] = value
    with pytest.raises(InputError, match=r"found 1 NaN or infinite of 4 in fc1\.bias"):
        weights.load_into(model, model.state_dict() | {"fc1.bias": bias}, "w.pth")


def tiny_swin(**options: Any) -> Any:
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=12,
                             depths=(1, 1), num_heads=(1, 2), num_classes=5, **options)  # fmt: skip


def test_load_into_takes_the_naming_of_published_swin_files() -> None:
    source, target = tiny_swin(), tiny_swin()
    state = {
        k.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc.", "head."): v
        for k, v in source.state_dict().items()
    }
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    weights.load_into(target, state, "swin.pth")
    assert weights.digest(target) == weights.digest(source)


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_load_into_never_resamples_to_another_input_size() -> None:
    source, target = tiny_swin(window_size=4), tiny_swin()
    state = source.state_dict() | {"layers.0.blocks.0.attn_mask": torch.zeros(1)}
    with pytest.raises(InputError, match="1 unknown"):
        weights.load_into(target, state, "swin.pth")
    del state["layers.0.blocks.0.attn_mask"]
    with pytest.raises(InputError, match="relative_position_bias_table of shape"):
        weights.load_into(target, state, "swin.pth")


def test_digest_depends_on_every_value_and_name_only(model: Any) -> None:
    before = weights.digest(model)
    torch.manual_seed(0)
    assert weights.digest(Tiny()) == before
    with torch.no_grad():
        model.fc2.bias[0] = torch.nextafter(model.fc2.bias[0], torch.tensor(9.0))
    assert weights.digest(model) != before


def test_digest_is_the_documented_bytes() -> None:
    model = torch.nn.Linear(2, 1)
    model.load_state_dict({"weight": torch.tensor([[0.5, -2.0]]), "bias": torch.tensor([1.0])})
    text = b"bias float32 [1]\n" + struct.pack("<f", 1.0)
    text += b"weight float32 [1, 2]\n" + struct.pack("<2f", 0.5, -2.0)
    assert weights.digest(model) == hashlib.sha256(text).hexdigest()
