import json

import numpy as np
import pytest
from PIL import Image

from mnq.models.preprocess import MAX_PIXELS, Preprocess
from mnq.ops.errors import InputError

IMAGENET = Preprocess(224, 248, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channels=3)
GRAY = Preprocess(8, 8, "bicubic", (0.5,), (0.5,), channels=1)


def random_image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Noise over a gradient: noise alone hides shifts, a gradient alone hides the filter."""
    generator = np.random.RandomState(width * 1009 + height)
    ramp = np.linspace(0, 128, width)[None, :, None] + np.linspace(0, 64, height)[:, None, None]
    noise = generator.randint(0, 64, (height, width, 3))
    return Image.fromarray((ramp + noise).astype(np.uint8), "RGB").convert(mode)


@pytest.mark.parametrize(
    ("width", "height"),
    [(256, 256), (248, 248), (500, 375), (375, 500), (299, 301), (301, 299), (97, 641), (641, 97),
     (1, 1), (31, 17), (224, 224), (1023, 1021), (3, 64)],
)  # fmt: skip
def test_image_equals_timm_when_the_size_is(width: int, height: int) -> None:
    create_transform = pytest.importorskip("timm.data").create_transform
    transform = create_transform((3, 224, 224), crop_pct=0.9, interpolation="bicubic",
                                 normalize=False)  # fmt: skip
    image = random_image(width, height)
    np.testing.assert_array_equal(IMAGENET.image(image), transform(image).numpy())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.875), (33, 1.0), (97, 0.95)])
def test_image_equals_timm_when_the_recipe_is(
    interpolation: str, size: int, crop_pct: float
) -> None:
    create_transform = pytest.importorskip("timm.data").create_transform
    transform = create_transform((3, size, size), crop_pct=crop_pct, interpolation=interpolation,
                                 normalize=False)  # fmt: skip
    recipe = Preprocess(size, int(size / crop_pct), interpolation, (0, 0, 0), (1, 1, 1), 3)
    for shape in ((301, 203), (203, 301), (64, 64)):
        image = random_image(*shape)
        np.testing.assert_array_equal(recipe.image(image), transform(image).numpy())


def test_normalize_equals_timm() -> None:
    create_transform = pytest.importorskip("timm.data").create_transform
    transform = create_transform((3, 224, 224), crop_pct=0.9, interpolation="bicubic")
    image = random_image(311, 277)
    floats = IMAGENET.normalize(IMAGENET.image(image)[None])
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats[0], transform(image).numpy())


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_image_takes_every_common_mode(mode: str) -> None:
    image = random_image(40, 30, "L" if mode == "LA" else "RGB").convert(mode)
    assert IMAGENET.image(image).shape == (3, 224, 224)
    assert GRAY.image(image).shape == (1, 8, 8)


def test_gray_image_is_the_luminance_unchanged_when_the_size_fits() -> None:
    image = random_image(8, 8, "L")
    np.testing.assert_array_equal(GRAY.image(image)[0], np.asarray(image))


def test_image_refuses_an_aspect_ratio_that_would_explode() -> None:
    with pytest.raises(InputError, match=f"1 to {MAX_PIXELS} pixels.*1x2000000"):
        IMAGENET.image(Image.new("L", (1, 2_000_000)))


def test_image_refuses_an_empty_image() -> None:
    with pytest.raises(InputError, match="found 0x5"):
        IMAGENET.image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 3, 4, 4), np.float32), np.zeros((3, 4, 4), np.uint8),
     np.zeros((1, 1, 4, 4), np.uint8)],
)  # fmt: skip
def test_normalize_refuses_another_shape_or_dtype(array: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected uint8 \(N, 3, H, W\)"):
        IMAGENET.normalize(array)


def test_json_round_trip() -> None:
    for recipe in (IMAGENET, GRAY):
        assert Preprocess.from_json(recipe.to_json()) == recipe
        assert "\n" not in recipe.to_json()


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", 0), ("size", 224.0), ("size", True), ("size", "224"), ("size", 10**9), ("size", None),
     ("resize", 100), ("resize", 10**9), ("resize", []), ("channels", 2), ("channels", 4096),
     ("interpolation", "magic"), ("interpolation", []), ("mean", [0.5]), ("mean", 0.5),
     ("mean", [0.5, 0.5, "x"]), ("mean", [0.5, 0.5, float("nan")]), ("mean", [1e9, 0, 0]),
     ("mean", "abc"), ("std", [0.0, 1.0, 1.0]), ("std", [1.0, 1.0, float("inf")]),
     ("std", [-1.0, 1.0, 1.0]), ("std", [True, True, True]), ("std", {})],
)  # fmt: skip
def test_from_json_refuses_a_wrong_value(key: str, value: object) -> None:
    text = json.dumps(json.loads(IMAGENET.to_json()) | {key: value})
    with pytest.raises(InputError, match=r"^preprocessing: expected ") as caught:
        Preprocess.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", "{}", '"size"', "[" * 4000, " " * 5000, "9" * 4096, "\ud800",
     '{"size": 8}', IMAGENET.to_json()[:-1] + ', "extra": 1}'],
)  # fmt: skip
def test_from_json_refuses_another_structure(text: str) -> None:
    with pytest.raises(InputError, match=r"^preprocessing: expected ") as caught:
        Preprocess.from_json(text)
    assert len(str(caught.value)) < 400
