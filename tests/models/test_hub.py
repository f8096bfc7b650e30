import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mnq.models import hub, zoo
from mnq.ops.errors import EnvironmentLack, InputError

hub_constants = pytest.importorskip("huggingface_hub.constants")
timm = pytest.importorskip("timm")


def test_no_network_is_a_quick_error_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(EnvironmentLack, match=r"found no way to it .*--weights FILE") as caught:
        zoo.load("deit_t")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20


def test_cached_weights_load_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_file: Callable[[str], Path]
) -> None:
    path = shared_file("deit_tiny_patch16_224.safetensors")
    repository = tmp_path / "models--timm--deit_tiny_patch16_224.fb_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(path, snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    assert zoo.load("deit_t").weights_digest == zoo.load("deit_t", path).weights_digest


def test_a_model_without_published_weights_is_an_input_error() -> None:
    for config in (None, timm.models.PretrainedCfg()):
        with pytest.raises(InputError, match=r"of some_vit .* none published; give a file with"):
            hub.pretrained(timm, "some_vit", config)
