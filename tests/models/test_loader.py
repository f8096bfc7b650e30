import logging
import pickle
import random
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnq.models.augment import AUGMENTATIONS
from mnq.models.dataset import Dataset, open_dataset
from mnq.models.loader import TrainLoader, eval_loader, train_loader
from mnq.models.preprocess import Preprocess
from mnq.ops.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

LARGE = Preprocess(40, 46, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), channels=3)
UNMIXED = replace(AUGMENTATIONS["ivit"], mixup=0.0, cutmix=0.0)
COUNT, CLASSES = 22, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 images in three classes, each one other noise."""
    root = tmp_path_factory.mktemp("set")
    stream = np.random.RandomState(0)
    for number in range(COUNT):
        path = root / f"c{number % CLASSES}" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(stream.randint(0, 256, (50, 60, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder, None, CLASSES)


def make(
    dataset: Dataset, recipe: Any = "ivit", batch: int = 4, seed: int = 0, workers: int = 0,
    **ranks: int,
) -> TrainLoader:  # fmt: skip
    augmentation = AUGMENTATIONS[recipe] if isinstance(recipe, str) else recipe
    return train_loader(dataset, LARGE, augmentation, batch, seed, workers, CLASSES, **ranks)


def batches(loader: Any) -> list[tuple[bytes, bytes]]:
    return [(pixels.numpy().tobytes(), targets.numpy().tobytes()) for pixels, targets in loader]


def test_batches_are_full_pixels_and_soft_targets(dataset: Dataset) -> None:
    loader = make(dataset)
    found = list(loader)
    assert len(found) == len(loader) == 5
    for pixels, targets in found:
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (4, 3, 40, 40))
        assert (targets.dtype, targets.shape) == (torch.float32, (4, CLASSES))
        np.testing.assert_allclose(targets.sum(dim=1), 1, rtol=1e-6)
        assert targets.min() > 0.03  # smoothed: 0.1 over three classes


def test_unaugmented_images_come_back_exactly(dataset: Dataset) -> None:
    """In another order, without the one that is left over from batches of 7."""
    originals = {LARGE.image(image).tobytes(): label for image, label in dataset}
    seen = []
    for pixels, targets in make(dataset, "none", batch=7):
        for image, target in zip(pixels.numpy(), targets, strict=True):
            assert target.tolist() == [float(originals[image.tobytes()] == k) for k in range(3)]
            seen.append(image.tobytes())
    assert len(set(seen)) == len(seen) == 21
    assert seen != [image for image in originals if image in seen]


def test_batches_depend_on_seed_and_epoch_alone(dataset: Dataset) -> None:
    loader = make(dataset, seed=3)
    loader.set_epoch(1)
    first = batches(loader)
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    again = make(dataset, seed=3)
    next(iter(again))
    again.set_epoch(1)
    assert batches(again) == batches(again) == first
    others = [batches(make(dataset, seed=seed)) for seed in (0, 1, 3, 2**32 - 1)]
    again.set_epoch(2)
    others.append(batches(again))
    assert len({pixels for run in (first, *others) for pixels, _ in run}) == 6 * 5


@pytest.mark.parametrize("zipped", [False, True])
def test_workers_make_the_same_batches(folder: Path, tmp_path: Path, zipped: bool) -> None:
    """And see the epoch; a zip file that is open here is opened by each of them anew."""
    place = folder
    if zipped:
        place = tmp_path / "set.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for path in sorted(folder.glob("*/*")):
                archive.write(path, path.relative_to(folder))
    dataset = open_dataset(place, None, CLASSES)
    alone, together = make(dataset), make(dataset, workers=2)
    for epoch in (0, 5):
        alone.set_epoch(epoch)
        together.set_epoch(epoch)
        assert batches(alone) == batches(together)


def test_global_random_state_is_left_alone(dataset: Dataset) -> None:
    def state() -> list[Any]:
        words = np.random.get_state()[1].tolist()
        return [random.getstate(), words, torch.get_rng_state().tolist()]

    before = state()
    loader = iter(make(dataset))
    next(loader)
    between = state()
    list(loader)
    assert before == between == state()


def test_epoch_can_begin_at_any_batch(dataset: Dataset) -> None:
    loader = make(dataset)
    loader.set_epoch(3)
    whole = batches(loader)
    for start in range(6):
        loader.set_epoch(3, start)
        assert len(loader) == 5
        assert batches(loader) == whole[start:]
    with pytest.raises(InputError, match="go on at one of 5 batches, found number 6; give"):
        loader.set_epoch(3, 6)


def test_skipped_batches_are_not_decoded(dataset: Dataset) -> None:
    seen = []
    loader = make(Dataset(Spy(dataset, seen)), batch=2)
    loader.set_epoch(0, 9)
    assert len(list(loader)) == 2
    assert len(seen) == 4


class Spy:
    """A reader that notes what it is asked for."""

    def __init__(self, dataset: Dataset, seen: list[int]) -> None:
        self.reader = dataset._reader
        self.seen = seen

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Any:
        self.seen.append(index)
        return self.reader[index]

    def filename(self, index: int) -> str:
        return self.reader.filename(index)


def test_ranks_share_the_batches_of_one_process(dataset: Dataset) -> None:
    alone = make(dataset, UNMIXED, batch=6)
    ranks = [make(dataset, UNMIXED, batch=2, rank=rank, world=3) for rank in range(3)]
    assert {len(loader) for loader in (alone, *ranks)} == {3}
    for (pixels, targets), *parts in zip(alone, *ranks, strict=True):
        for rank, (part, part_targets) in enumerate(parts):
            assert torch.equal(part, pixels[rank::3])
            assert torch.equal(part_targets, targets[rank::3])


def test_images_are_changed_anew_in_every_epoch(dataset: Dataset) -> None:
    loader = make(dataset, replace(UNMIXED, erasing=1.0), batch=COUNT)
    seen = set()
    for epoch in range(2):
        loader.set_epoch(epoch)
        seen |= {image.numpy().tobytes() for image in next(iter(loader))[0]}
    assert len(seen) == 2 * COUNT


def test_batches_epochs_seeds_and_ranks_mix_by_draws_of_their_own(dataset: Dataset) -> None:
    """Where no two images have the same class, a batch's targets show in what ratio it is mixed."""

    class Distinct(Dataset):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return super().__getitem__(index)[0], index

    distinct = Distinct(dataset._reader)
    ratios = []
    for seed, epoch, rank in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        recipe = replace(AUGMENTATIONS["light"], mixup=0.8)
        loader = train_loader(distinct, LARGE, recipe, 2, seed, 0, COUNT, rank, 2)
        loader.set_epoch(epoch)
        ratios += [float(targets.max()) for _, targets in loader]
    assert len(set(ratios)) == len(ratios) == 20


def test_batch_sizes_that_do_not_do_are_an_error(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"an even batch size, found 3; .* without mixup"):
        make(dataset, batch=3)
    with pytest.raises(InputError, match=r"a positive batch size, found 0; change it$"):
        make(dataset, "light", batch=0)
    assert len(make(dataset, "light", batch=3)) == 7


def test_fewer_images_than_a_batch_are_an_error(dataset: Dataset) -> None:
    assert len(make(dataset, batch=22)) == 1
    assert len(make(dataset, batch=10, world=2)) == 1
    for batch, world in ((24, 1), (12, 2)):
        with pytest.raises(InputError, match=r"at least 24 images, .*found 22; .* lower the batch"):
            make(dataset, batch=batch, world=world)


def test_loaders_leave_the_data_set_as_it_is(dataset: Dataset) -> None:
    next(iter(make(dataset)))
    next(eval_loader(dataset, LARGE, 8, 0))
    assert dataset.transform is None


def test_loader_can_be_sent_to_processes(dataset: Dataset) -> None:
    """As DataLoader does where processes are not forked."""
    loader = make(dataset)
    assert batches(pickle.loads(pickle.dumps(loader))) == batches(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_unusable_data_is_one_line_from_any_process(tmp_path: Path, workers: int) -> None:
    (tmp_path / "c").mkdir()
    for number in range(4):
        (tmp_path / "c" / f"{number}.png").write_bytes(b"x")
    logging.getLogger("mnq.models.dataset").setLevel(logging.ERROR)
    try:
        with pytest.raises(InputError, match="found 4 in a row that cannot") as caught:
            list(make(open_dataset(tmp_path, ["c"], 3), workers=workers))
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="found none of 4 that can"):
            list(eval_loader(open_dataset(tmp_path, ["c"], 3), LARGE, 2, workers))
    finally:
        logging.getLogger("mnq.models.dataset").setLevel(logging.NOTSET)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_yields_every_image_once_in_order(dataset: Dataset, workers: int) -> None:
    found = list(eval_loader(dataset, LARGE, 8, workers))
    assert [len(labels) for _, labels in found] == [8, 8, 6]
    assert (found[0][0].dtype, found[0][1].dtype) == (torch.uint8, torch.int64)
    expected = np.stack([LARGE.image(image) for image, _ in dataset])
    np.testing.assert_array_equal(torch.cat([pixels for pixels, _ in found]), expected)
    assert torch.cat([labels for _, labels in found]).tolist() == [label for _, label in dataset]


def test_evaluation_is_divided_among_ranks(dataset: Dataset) -> None:
    whole = torch.cat([pixels for pixels, _ in eval_loader(dataset, LARGE, 8, 0)])
    for rank in range(3):
        part = [pixels for pixels, _ in eval_loader(dataset, LARGE, 5, 0, rank, 3)]
        assert torch.equal(torch.cat(part), whole[rank::3])
    assert list(eval_loader(dataset, LARGE, 5, 0, 30, 31)) == []


def test_evaluation_leaves_out_what_cannot_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(5):
        Image.new("L", (50, 50), number).save(tmp_path / "a" / f"{number}.png")
    for number in (1, 2, 3):
        (tmp_path / "a" / f"{number}.png").write_bytes(b"x")
    found = list(eval_loader(open_dataset(tmp_path, None, 1), LARGE, 2, 0))
    assert [pixels[:, 0, 0, 0].tolist() for pixels, _ in found] == [[0], [4]]
