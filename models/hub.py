"""Pretrained weights from timm's model hub, with a quick answer where there is no network."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mnq.ops.errors import EnvironmentLack, InputError

if TYPE_CHECKING:
    import torch

__all__ = ["pretrained"]

# Seconds per address tried. timm's own download retries for about a minute before it gives up.
_PROBE_TIMEOUT = 5.0


def pretrained(timm: Any, name: str, config: Any) -> torch.nn.Module:
    """Build the timm model `name` with its pretrained weights, from the cache or the network.

    Args:
        timm: the imported module.
        name: a valid timm name.
        config: its pretrained config, None if timm has none.

    InputError if no weights are published; EnvironmentLack, soon, if they cannot be had.
    """
    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(
            f"weights: expected pretrained weights of {name} on timm's hub, found none published; "
            "give a file with --weights FILE"
        )
    try:
        if config.hf_hub_id:
            _probe(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
        model: torch.nn.Module = timm.create_model(name, pretrained=True)
        return model
    # Network stacks raise types of their own making, and a damaged cache any other.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise EnvironmentLack(
            f"weights: expected to download {name} from timm's hub, found no way to it ({reason}); "
            "give a file with --weights FILE, or connect to the network"
        ) from error


def _probe(repository: str, filename: str) -> None:
    """Return if the file is cached or the hub answers at all; else raise after one attempt."""
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    if isinstance(hub.try_to_load_from_cache(repository, filename), str):
        return
    # Not found is an answer as well: timm knows the other names that its weights may have.
    with contextlib.suppress(EntryNotFoundError):
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, filename), timeout=_PROBE_TIMEOUT)
