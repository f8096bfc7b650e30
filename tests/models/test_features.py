"""Feature maps: a timm model as a backbone, and the names that ask for one."""

from pathlib import Path

import pytest
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from mnq.models import zoo
from mnq.models.features import LAST, FeatureMaps
from mnq.ops.errors import InputError

torch = pytest.importorskip("torch")
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def test_maps_of_a_pyramid_are_those_of_its_last_stages() -> None:
    net = SwinTransformer(
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(1, 1, 1), num_heads=(1, 1, 1)
    ).eval()
    with torch.no_grad():
        every = net.forward_intermediates(IMAGES, intermediates_only=True)
        maps = FeatureMaps(net, 2)(IMAGES)
    assert type(maps) is tuple
    assert [tuple(m.shape) for m in maps] == [(2, 16, 4, 4), (2, 32, 2, 2)]
    assert all(map(torch.equal, maps, every[1:]))


def test_maps_of_a_plain_transformer_are_those_of_its_last_blocks() -> None:
    """Channels first, without the class token."""
    net = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2).eval()
    tokens: list[torch.Tensor] = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    with torch.no_grad():
        maps = FeatureMaps(net, 2)(IMAGES)
    assert len(tokens) == 3 and len(maps) == 2
    for found, stream in zip(maps, tokens[1:], strict=True):
        assert torch.equal(found, stream[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4))


@pytest.fixture(scope="module")
def backbone() -> zoo.LoadedModel:
    return zoo.load(f"test_vit{zoo.FEATURES}", random=1)


def test_a_name_with_features_behind_it_is_a_backbone(backbone: zoo.LoadedModel) -> None:
    assert (backbone.name, backbone.timm_name) == ("test_vit:features", "test_vit")
    assert (backbone.num_classes, backbone.classes) == (0, None)
    assert backbone.preprocess == zoo.load("test_vit", random=1).preprocess
    assert not backbone.model.training
    with torch.no_grad():
        maps = backbone.model(torch.zeros(1, 3, 160, 160))
    assert [tuple(m.shape) for m in maps] == LAST * [(1, 64, 10, 10)]


def test_a_backbone_has_the_weights_of_the_classifier(
    backbone: zoo.LoadedModel, tmp_path: Path
) -> None:
    """From a file and from a seed; a short name may stand in front too."""
    classifier = zoo.load("test_vit", random=1).model
    save_file(classifier.state_dict(), tmp_path / "w.safetensors")
    found = zoo.load("test_vit:features", tmp_path / "w.safetensors")
    assert found.weights_digest == backbone.weights_digest
    assert zoo.load("swin_t:features", random=1).timm_name == zoo.SHORT_NAMES["swin_t"]


@pytest.mark.parametrize(
    "name", ["digits:features", ":features", "test_vit:feature", "test_vit:features:features"]
)
def test_other_names_are_no_backbones(name: str) -> None:
    with pytest.raises(InputError, match=r"^model: expected .*timm name, found") as caught:
        zoo.load(name, random=0)
    assert "\n" not in str(caught.value)


def test_a_model_without_maps_is_refused_with_advice() -> None:
    with pytest.raises(InputError, match=r"^model: expected .*; leave :features out$"):
        zoo._maps(torch.nn.Identity(), "net:features")
