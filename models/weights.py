"""Weights files: read without unpickling, checked against the model, named by a digest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnq.ops.errors import InputError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

__all__ = ["digest", "digest_of", "load_into", "read"]

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
# Under which published checkpoints keep the state dict: DeiT and Swin, then Lightning and others.
_WRAPPERS = ("model", "state_dict")


def read(path: Path) -> State:
    """Read a state dict from .safetensors, or .pth/.pt/.bin (tensors only, never unpickled).

    A dict under "model" or "state_dict" is unwrapped. InputError if the file is missing,
    damaged, of another kind, or holds anything but named tensors.
    """
    if not path.is_file():
        raise InputError(
            f"weights: expected a file at {path}, found none; check the path given as --weights"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    raise InputError(
        f"weights: expected a file named .safetensors, {', '.join(_TORCH_SUFFIXES)}, "
        f"found {path.name}; convert it or correct its name"
    )


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:160]
    return InputError(
        f"weights: expected a readable {kind} file, found {path} which is damaged or of another "
        f"kind ({reason}); download or save it again"
    )


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, "safetensors", error) from error


def _read_torch(path: Path) -> State:
    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    # On hostile bytes the restricted reader raises nearly any type.
    except Exception as error:
        if "Weights only load failed" in str(error):
            raise InputError(
                f"weights: expected a PyTorch file with tensors only, found {path} which is "
                "damaged or holds other Python objects; save its state dict as .safetensors"
            ) from error
        raise _unreadable(path, "PyTorch", error) from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise InputError(
            f"weights: expected named tensors, or these under 'model' or 'state_dict', in {path}, "
            f"found {_describe(content)}; save the model's state dict"
        )
    return content


def _describe(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return f"a dict with the keys {_some(map(str, content))}"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ascii(", ".join(listed[:3]))[1:-1][:200] + (", ..." if len(listed) > 3 else "")


def load_into(model: torch.nn.Module, state: State, source: str) -> None:
    """Copy `state` into `model`, in the model's dtypes. `source` names it in messages.

    Files in a publication's own naming (Swin's) are renamed by timm's filter for that model.
    InputError if tensors are missing, unknown, of another shape, or not finite in the end.
    """
    own = model.state_dict()
    if set(state) != set(own):
        state = _renamed(model, state)
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unknown:
        parts = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
        parts += [f"{len(unknown)} unknown ({_some(unknown)})"] if unknown else []
        raise InputError(
            f"weights: expected the model's {len(own)} tensors in {source}, found "
            f"{' and '.join(parts)}; give weights of this model, or name the model they are of"
        )
    wrong = [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        name = wrong[0]
        raise InputError(
            f"weights: expected {name} of shape {tuple(own[name].shape)} in {source}, found "
            f"{tuple(state[name].shape)} ({len(wrong)} of {len(own)} tensors differ); "
            "give weights of this model with the same input size and number of classes"
        )
    model.load_state_dict(state)
    check_finite(model, source)


def _renamed(model: torch.nn.Module, state: State) -> State:
    """Apply timm's checkpoint filter for the model's family, but take its renaming only."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return state
    try:
        renamed: State = rename(dict(state), model)
    except Exception:  # a foreign file: the unfiltered names say best what is wrong
        return state
    # The filters resample position embeddings to the model's size: another model, silently.
    resized = any(
        name in state and renamed[name].numel() != state[name].numel() for name in renamed
    )
    return state if resized else renamed


def check_finite(model: torch.nn.Module, source: str) -> None:
    """InputError naming the first floating tensor of `model` that holds a NaN or an infinity."""
    for name, tensor in model.state_dict().items():
        bad = tensor.numel() - int(tensor.isfinite().sum())
        if bad:
            raise InputError(
                f"weights: expected finite numbers in {source}, found {bad} NaN or infinite of "
                f"{tensor.numel()} in {name}; download or train them again"
            )


def digest(model: torch.nn.Module) -> str:
    """`digest_of` the model's state dict."""
    return digest_of(model.state_dict())


def digest_of(state: State) -> str:
    """SHA-256, hex, over (name, dtype, shape, little-endian bytes) of the sorted tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        sha.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return sha.hexdigest()
