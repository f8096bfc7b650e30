import sys
from pathlib import Path

import numpy as np
import pytest

from mnq.models.digits import data
from mnq.models.digits.model import PREPROCESS
from mnq.models.images import ImageSet, batches, label_index
from mnq.ops.errors import EnvironmentLack


def test_splits_are_stratified_disjoint_and_fixed() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    (train, train_labels), (test, test_labels) = data.load("train"), data.load("test")
    assert train.shape == (1442, 1, 8, 8)
    assert test.shape == (355, 1, 8, 8)
    assert (train.dtype, train_labels.dtype) == (np.uint8, np.int64)
    share = np.bincount(test_labels) / np.bincount(np.concatenate([train_labels, test_labels]))
    assert np.all((share > 0.19) & (share <= 0.2))
    # All images, each in one split, and every one of the 17 grey levels kept apart.
    both = np.concatenate([train, test]).reshape(-1, 64)
    original = load_digits().images.reshape(-1, 64)
    assert sorted(map(tuple, np.rint(both * (16 / 255)))) == sorted(map(tuple, original))
    assert (int(train.max()), len(np.unique(both))) == (255, 17)
    assert test_labels[:8].tolist() == [3, 7, 3, 9, 0, 8, 7, 0]


def test_written_folder_reads_back_as_the_same_pixels(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    assert data.write_folder(tmp_path / "test", "test") == 355
    images, labels = data.load("test")
    found: dict[str, tuple[np.ndarray, int]] = {}
    with ImageSet.open(tmp_path / "test") as folder:
        index = label_index(folder.classes, list("0123456789"))
        for pixels, targets, names in batches(folder, PREPROCESS, 64, labels=index):
            found |= dict(zip(names, zip(pixels, targets, strict=True), strict=True))
    assert len(found) == 355
    for name, (image, label) in found.items():
        number = int(Path(name).stem)
        np.testing.assert_array_equal(image, images[number])
        assert label == labels[number]


def test_load_without_scikit_learn_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(EnvironmentLack, match=r"expected scikit-learn.*pip install 'mnq\[train\]'"):
        data.load("test")
