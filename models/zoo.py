"""Float models by name: the table of short names, loading, preprocessing, class names.

Importing this module is light; torch and timm are imported when a model is loaded.
"""

from __future__ import annotations

import difflib
import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnq.models import hub, weights
from mnq.models.preprocess import Preprocess
from mnq.ops.errors import EnvironmentLack, InputError

if TYPE_CHECKING:
    import torch

__all__ = ["BUNDLED", "DIGITS", "SHORT_NAMES", "LoadedModel", "load"]

SHORT_NAMES = {
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
}
FEATURES = ":features"
"""Behind a timm name: feature maps instead of logits, for detection or segmentation."""
DIGITS = "digits"
# The bundled models, the only names that are not timm's, and the modules that make them.
BUNDLED = {
    DIGITS: "mnq.models.digits.model",
    "micro_vit": "mnq.models.micro.vit",
    "micro_swin": "mnq.models.micro.swin",
}


@dataclass(frozen=True)
class LoadedModel:
    """A float model ready to be quantized.

    Attributes:
        name: as asked for.
        timm_name: timm's name, None for a bundled model.
        model: float32, eval mode, on the CPU; (N, C, size, size) to (N, num_classes), or to
            several feature maps.
        preprocess: from an image to the model's input.
        classes: class names in output order (WordNet ids for ImageNet), None if not known.
        num_classes: number of logits, 0 for a model that returns features.
        weights_digest: SHA-256 of the weights, see `mnq.models.weights.digest`.
    """

    name: str
    timm_name: str | None
    model: torch.nn.Module
    preprocess: Preprocess
    classes: list[str] | None
    num_classes: int
    weights_digest: str


def load(
    name: str,
    weights: Path | None = None,
    *,
    random: int | None = None,
    most: int | None = None,
) -> LoadedModel:
    """Load a model by short name, bundled name or timm name.

    Args:
        name: a key of SHORT_NAMES or BUNDLED, or any timm model name, with or without a tag;
            with FEATURES behind it the model returns its last stages' maps (N, C, H, W).
        weights: .safetensors, .pth, .pt or .bin file; None downloads timm's pretrained weights
            (or takes the bundled ones).
        random: seed of random weights instead, for trying sizes and speeds.
        most: parameters that the model may have; a larger one is refused before it takes memory.

    InputError: unknown name, unusable file or weights that do not fit.
    EnvironmentLack: torch or timm not installed, or the download failed.
    """
    if weights is not None and random is not None:
        raise InputError(
            f"weights: expected a file or random ones, found both ({weights}, seed {random}); "
            "leave one out"
        )
    try:
        import timm
        import torch
    except ImportError as error:
        raise EnvironmentLack(
            f"model: expected torch and timm, found no {error.name}; pip install 'mnq[train]'"
        ) from error
    # The draws that make a model must not depend on, or disturb, the caller's random state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random or 0)
        if name in BUNDLED:
            return _load_bundled(name, weights, random)
        return _load_timm(timm, name, weights, random, most)


def _load_bundled(name: str, path: Path | None, random: int | None) -> LoadedModel:
    bundled = importlib.import_module(BUNDLED[name])
    net = bundled.build()
    if random is None:
        path = path or bundled.WEIGHTS
        weights.load_into(net, weights.read(path), str(path))
    return _finish(name, None, net, bundled.PREPROCESS, list(bundled.CLASSES))


def _load_timm(
    timm: Any, name: str, path: Path | None, random: int | None, most: int | None
) -> LoadedModel:
    stem = name.removesuffix(FEATURES)
    timm_name = SHORT_NAMES.get(stem, stem)
    if not timm.is_model(timm_name):
        raise InputError(
            f"model: expected {', '.join([*SHORT_NAMES, *BUNDLED])} or a timm name, "
            f"found {ascii(name)[:80]}; {_suggest(name, timm.list_models())}"
        )
    try:
        config = timm.get_pretrained_cfg(timm_name)
    except RuntimeError as error:
        raise InputError(
            f"model: expected a pretrained tag that timm knows, found '{timm_name}'; "
            f"{_suggest(timm_name, timm.list_pretrained(timm_name.split('.')[0] + '*'))}"
        ) from error
    if most is not None:
        _check_size(timm, timm_name, most)
    if random is None and path is None:
        net = hub.pretrained(timm, timm_name, config)
        weights.check_finite(net, f"timm's weights of {timm_name}")
    else:
        net = timm.create_model(timm_name, pretrained=False)
        if path is not None:
            weights.load_into(net, weights.read(path), str(path))
    data_config = timm.data.resolve_model_data_config(net)
    if name.endswith(FEATURES):
        return _finish(name, timm_name, _maps(net, name), _preprocess(timm_name, data_config), None)
    return _finish(name, timm_name, net, _preprocess(timm_name, data_config), _class_names(net))


def _check_size(timm: Any, timm_name: str, most: int) -> None:
    import torch

    with torch.device("meta"):  # shapes without memory
        net = timm.create_model(timm_name, pretrained=False)
    found = sum(parameter.numel() for parameter in net.parameters())
    if found > most:
        raise InputError(
            f"model: expected at most {most} parameters, as the file has weights, found {found} in "
            f"{timm_name}; name the model that was trained"
        )


def _maps(net: torch.nn.Module, name: str) -> torch.nn.Module:
    """A model that returns the maps of the last stages, or blocks, of `net`."""
    from mnq.models.features import LAST, FeatureMaps

    if not hasattr(net, "forward_intermediates"):
        raise InputError(
            f"model: expected a timm model with feature maps, found none in {name}; leave "
            f"{FEATURES} out"
        )
    return FeatureMaps(net, LAST)


def _suggest(name: str, known: list[str]) -> str:
    """Advice for an unknown name: those that begin with it, else those spelt alike."""
    names = [*SHORT_NAMES, *BUNDLED, *known]
    close = [other for other in names if name and other.startswith(name)][:3]
    close = close or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists its names"


def _preprocess(timm_name: str, config: dict[str, Any]) -> Preprocess:
    """The evaluation recipe of timm's data config, which only `center` crops of squares have."""
    channels, height, width = config["input_size"]
    if height != width or config["crop_mode"] != "center":
        raise InputError(
            f"model: expected a square input and a centre crop, found {height}x{width} and "
            f"'{config['crop_mode']}' for {timm_name}; choose another variant of the model"
        )
    return Preprocess(
        size=height,
        resize=math.floor(height / config["crop_pct"]),  # as timm rounds it: 248 for DeiT
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        channels=channels,
    )


def _class_names(net: torch.nn.Module) -> list[str] | None:
    """WordNet ids in output order if the number of outputs is one of ImageNet's, else None."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(net)
    return list(ImageNetInfo(subset).label_names()) if subset else None


def _finish(
    name: str,
    timm_name: str | None,
    net: torch.nn.Module,
    preprocess: Preprocess,
    classes: list[str] | None,
) -> LoadedModel:
    net = net.float().eval()
    return LoadedModel(
        name=name,
        timm_name=timm_name,
        model=net,
        preprocess=preprocess,
        classes=classes,
        num_classes=int(getattr(net, "num_classes", 0)),
        weights_digest=weights.digest(net),
    )
