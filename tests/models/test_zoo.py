import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnq.models import zoo
from mnq.models.images import ImageSet, batches, label_index
from mnq.models.preprocess import Preprocess
from mnq.ops.errors import InputError

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


def test_importing_the_zoo_is_light() -> None:
    code = "import sys, mnq.models.zoo; print({'torch', 'timm', 'sklearn'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize("name", zoo.SHORT_NAMES)
def test_short_names_are_timm_models_with_224_pixels(name: str) -> None:
    config = timm.get_pretrained_cfg(zoo.SHORT_NAMES[name])
    assert config.input_size == (3, 224, 224)
    assert config.num_classes == 1000


@pytest.fixture(scope="module")
def deit() -> zoo.LoadedModel:
    return zoo.load("deit_t", random=1)


def test_random_weights_follow_the_seed_alone() -> None:
    first = zoo.load("digits", random=1)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert zoo.load("digits", random=1).weights_digest == first.weights_digest
    assert torch.equal(torch.random.get_rng_state(), before)
    assert zoo.load("digits", random=2).weights_digest != first.weights_digest


def test_model_is_float32_in_eval_mode_with_logits_that_differ(deit: zoo.LoadedModel) -> None:
    assert not deit.model.training
    assert {p.dtype for p in deit.model.parameters()} == {torch.float32}
    with torch.inference_mode():
        logits = deit.model(torch.randn(1, 3, 224, 224))
    assert logits.shape == (1, deit.num_classes) == (1, 1000)
    assert float(logits.std()) > 0


def test_preprocess_is_that_of_timm(deit: zoo.LoadedModel) -> None:
    assert deit.preprocess == Preprocess(
        224, 248, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3
    )
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg("vit_small_patch16_224").to_dict()
    )
    expected = Preprocess(224, 248, "bicubic", (0.5,) * 3, (0.5,) * 3, 3)
    assert zoo._preprocess("vit_small_patch16_224", config) == expected


def test_classes_are_wordnet_ids_in_output_order(deit: zoo.LoadedModel) -> None:
    assert deit.classes is not None
    assert len(deit.classes) == deit.num_classes == 1000
    assert (deit.classes[0], deit.classes[999]) == ("n01440764", "n15075141")


@pytest.mark.parametrize(("count", "names"), [(10, None), (0, None), (21843, 21843)])
def test_classes_are_known_for_the_sizes_of_imagenet_alone(count: int, names: int | None) -> None:
    net = torch.nn.Identity()
    net.num_classes = count
    found = zoo._class_names(net)
    assert (found and len(found)) == names


@pytest.mark.parametrize(
    ("name", "advice"),
    [("deit_x", "did you mean deit_t or"), ("", "list_models"),
     ("deit_tiny_patch16", "did you mean deit_tiny_patch16_224"),
     ("deit_tiny_patch16_224.fb_in2k", "did you mean deit_tiny_patch16_224.fb_in1k"),
     ("digit", "did you mean digits"), ("hf-hub:a/b", "list_models"), ("a\nb", r"a\\nb")],
)  # fmt: skip
def test_unknown_names_are_refused_with_advice(name: str, advice: str) -> None:
    with pytest.raises(InputError, match=f"^model: expected .*{advice}") as caught:
        zoo.load(name, random=0)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_preprocess_cannot_hold_is_refused() -> None:
    config = {"input_size": (3, 224, 224), "crop_mode": "squash", "crop_pct": 1.0}
    with pytest.raises(InputError, match="found 224x224 and 'squash' for some_vit"):
        zoo._preprocess("some_vit", config)


def test_file_and_random_weights_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a file or random ones, found both"):
        zoo.load("deit_t", tmp_path / "w.pth", random=0)


def test_weights_of_another_model_are_refused(shared_file: Callable[[str], Path]) -> None:
    path = shared_file("deit_tiny_patch16_224.safetensors")
    with pytest.raises(InputError, match=r"cls_token of shape \(1, 1, 384\)"):
        zoo.load("deit_s", path)
    with pytest.raises(InputError, match=r"tensors in .*, found 96 unknown \(blocks\.10"):
        zoo.load("digits", path)


def test_float_accuracy_of_deit_t(shared_file: Callable[[str], Path]) -> None:
    deit = zoo.load("deit_t", shared_file("deit_tiny_patch16_224.safetensors"))
    right = []
    with ImageSet.open(shared_file("imagenet_calib_1000.zip")) as images:
        index = label_index(images.classes, deit.classes)
        for pixels, labels, _ in batches(images, deit.preprocess, 16, limit=64, labels=index):
            with torch.inference_mode():
                logits = deit.model(torch.from_numpy(deit.preprocess.normalize(pixels)))
            right.append(logits.argmax(1).numpy() == labels)
    # 79.6 % of all 1000; three standard errors of 64 images are 15 points.
    assert np.concatenate(right).mean() > 0.65


def test_a_model_larger_than_allowed_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    original = timm.create_model

    def create(name: str, **options: Any) -> Any:
        net = original(name, **options)
        made.append(str(next(net.parameters()).device))
        return net

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InputError, match=r"^model: expected at most 1000000 parameters, as the"):
        zoo.load("vit_giant_patch14_224", random=0, most=1_000_000)
    assert made == ["meta"]
    assert zoo.load("deit_t", random=0, most=6_000_000).num_classes == 1000
