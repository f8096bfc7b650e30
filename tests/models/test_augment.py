import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnq.models.augment import AUGMENTATIONS, Augmentation, mixing, seeded, to_pixels, transform
from mnq.models.preprocess import Preprocess
from mnq.ops.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGE = Preprocess(40, 46, "bicubic", MEAN, STD, channels=3)
SMALL = Preprocess(32, 32, "bilinear", MEAN, STD, channels=3)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_importing_is_light() -> None:
    code = "import sys, mnq.models.loader; print({'torch', 'timm', 'torchvision'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@given(st.floats(-16, 16), st.floats(1e-4, 16))
def test_to_pixels_inverts_normalize(mean: float, std: float) -> None:
    preprocess = Preprocess(16, 16, "bilinear", (mean,), (std,), channels=1)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    found = to_pixels(torch.from_numpy(preprocess.normalize(pixels)), preprocess)
    np.testing.assert_array_equal(found.numpy(), pixels)


def test_to_pixels_takes_the_nearest_in_range() -> None:
    preprocess = Preprocess(2, 2, "bilinear", (0.0,), (1.0,), channels=1)
    images = torch.tensor([-1.0, 0.4 / 255, 99.6 / 255, 1.1]).view(1, 1, 2, 2)
    assert to_pixels(images, preprocess).flatten().tolist() == [0, 0, 100, 255]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_augmentation_is_the_evaluation_preprocessing(mode: str, channels: int) -> None:
    preprocess = replace(LARGE, channels=channels, mean=MEAN[:channels], std=STD[:channels])
    image = noise(50, 70).convert(mode)
    found = transform(AUGMENTATIONS["none"], preprocess)(image)
    assert found.dtype == torch.float32
    pixels = to_pixels(found[None], preprocess)[0].numpy()
    np.testing.assert_array_equal(pixels, preprocess.image(image))


def test_extreme_aspect_ratios_are_an_input_error() -> None:
    with pytest.raises(InputError, match="once the shorter side is 46"):
        transform(AUGMENTATIONS["none"], LARGE)(Image.new("L", (1, 1_000_000)))


def test_default_recipe_is_the_published_one() -> None:
    """DeiT's arguments of timm's factory, which I-ViT's training code passes on unchanged."""
    from timm.data.transforms_factory import create_transform

    published = create_transform(
        40,
        is_training=True,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    ours = transform(Augmentation(), LARGE)
    different = 0
    for number in range(40):
        with seeded(0, 0, 0, number):
            expected = published(noise(60, 50))
        with seeded(0, 0, 0, number):
            found = ours(noise(60, 50))
        assert torch.equal(found, expected)
        different += not torch.equal(found, ours(noise(60, 50)))
    assert different == 40


def test_small_images_are_shifted_and_flipped() -> None:
    image = noise(32, 32)
    made = transform(AUGMENTATIONS["light"], SMALL)
    padded = np.pad(np.array(image), ((4, 4), (4, 4), (0, 0)))
    shifts = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 32, left : left + 32]
            shifts[crop.tobytes()] = (top, left, False)
            shifts[crop[:, ::-1].tobytes()] = (top, left, True)
    found = set()
    for number in range(60):
        with seeded(0, 0, 0, number):
            pixels = to_pixels(made(image)[None], SMALL)[0]
        found.add(shifts[pixels.permute(1, 2, 0).numpy().tobytes()])
    assert len(found) > 40
    assert {flip for *_, flip in found} == {False, True}


def test_light_recipe_crops_larger_images() -> None:
    made = transform(AUGMENTATIONS["light"], LARGE)
    assert made(noise(50, 70)).shape == (3, 40, 40)
    # A part of at least 60 %, of an image whose columns are brighter to the right.
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (100, 1)))
    for number in range(20):
        with seeded(0, 0, 0, number):
            pixels = to_pixels(made(ramp)[None], LARGE)[0, 0, 0].int()
        assert 50 < abs(int(pixels[-1] - pixels[0])) < 100


@pytest.mark.parametrize("preprocess", [LARGE, replace(SMALL, size=8, resize=8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_default_recipe_takes_any_image(preprocess: Preprocess, channels: int) -> None:
    own = replace(preprocess, channels=channels, mean=MEAN[:channels], std=STD[:channels])
    made = transform(Augmentation(erasing=1.0), own)
    for number, size in enumerate([(1, 1), (1, 9), (300, 20), (8, 8)] * 5):
        with seeded(0, 0, 0, number):
            for mode in ("L", "P", "RGB", "CMYK", "LA"):
                assert made(Image.new(mode, size)).shape == (channels, own.size, own.size)


def test_strongest_posterize_leaves_a_black_image() -> None:
    """It keeps no bits; older versions of Pillow did that, newer ones raise ValueError."""
    made = transform(AUGMENTATIONS["ivit"], SMALL)
    (augment,) = [step for step in made.transforms if hasattr(step, "ops")]
    (posterize,) = [op for op in augment.ops if op.name.startswith("Posterize")]
    posterize.prob, posterize.magnitude_std = 1.0, 0.0
    for magnitude, values in ((10, {0}), (9, {0, 128})):
        posterize.magnitude = magnitude
        assert {*np.array(posterize(noise(8, 8))).flatten().tolist()} == values


def test_targets_without_mixing_are_smoothed() -> None:
    images, labels = torch.rand(3, 3, 4, 4), torch.tensor([2, 0, 1])
    mix = mixing(replace(AUGMENTATIONS["light"], smoothing=0.2), 4)
    found, targets = mix(images, labels)
    assert found is images
    assert targets.dtype == torch.float32
    expected = 0.05 + 0.8 * torch.nn.functional.one_hot(labels, 4)
    np.testing.assert_allclose(targets, expected, rtol=1e-6)


@pytest.mark.parametrize("only", [{"mixup": 0.0}, {"cutmix": 0.0}, {}])
def test_mixed_targets_say_what_is_in_the_image(only: dict[str, float]) -> None:
    """Image k is all k: the mean of a mixture is the mean of the numbers that its target names."""
    mix = mixing(replace(AUGMENTATIONS["ivit"], smoothing=0.0, **only), 4)
    for number in range(20):
        labels = torch.arange(4)
        with seeded(0, 0, 0, number):
            images, targets = mix(labels.float().view(4, 1, 1, 1).repeat(1, 1, 8, 8), labels)
        assert targets.dtype == torch.float32
        np.testing.assert_allclose(images.mean(dim=(1, 2, 3)), targets @ labels.float(), atol=1e-5)


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_seeded_gives_one_stream_per_number_and_restores_the_state() -> None:
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (2**32 - 1,) * 4]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    found = []
    for key in (*keys, *keys):
        with seeded(*key):
            found.append(draws())
    assert found[: len(keys)] == found[len(keys) :]
    assert len({value for stream in found for value in stream}) == 3 * len(keys)
    with pytest.raises(KeyError), seeded(0, 0, 0, 0):
        draws()
        raise KeyError
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
