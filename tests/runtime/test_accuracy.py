import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mnq.runtime.accuracy import accuracy

# Six classes. Answers by row: 2, 0 (a tie of 0 and 3), 5, 1.
LOGITS = np.array(
    [
        [0, 1, 9, 3, 4, 5],
        [7, 1, 2, 7, 4, 5],
        [-6, -5, -4, -3, -2, -1],
        [0, 3, 2, 1, -1, -2],
    ],
    np.float64,
)


def labels(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def test_top1_and_top5_of_hand_counted_rows() -> None:
    # right; tie lost to class 0, in the top 5; in the top 5; 5 is the last of six, so not.
    result = accuracy("m", LOGITS, labels(2, 3, 1, 5))
    assert (result.name, result.images) == ("m", 4)
    assert (result.top1, result.top5) == (25.0, 75.0)
    assert result.agreement is result.logit_sqnr_db is result.gained is result.lost is None


def test_the_first_of_equal_logits_is_the_answer() -> None:
    row = np.zeros((1, 6))
    assert accuracy("m", row, labels(0)).top1 == 100.0
    assert accuracy("m", row, labels(1)).top1 == 0.0
    assert accuracy("m", row, labels(4)).top5 == 100.0
    assert accuracy("m", row, labels(5)).top5 == 0.0


def test_unlabelled_images_count_for_agreement_only() -> None:
    reference = LOGITS.copy()
    reference[3] = [0, 0, 9, 0, 0, 0]  # answers 2 where the model answers 1
    result = accuracy("m", LOGITS, labels(2, -1, -1, 1), reference)
    assert (result.images, result.top1, result.top5) == (4, 100.0, 100.0)
    assert result.agreement == 75.0
    assert (result.gained, result.lost) == (1, 0)


def test_without_labels_there_is_no_top1() -> None:
    result = accuracy("m", LOGITS, labels(-1, -1, -1, -1), LOGITS + 1)
    assert result.top1 is result.top5 is result.gained is result.lost is None
    assert result.agreement == 100.0


def test_gained_and_lost_are_counted_apart() -> None:
    truth = labels(0, 1, 2, 3, 4)
    model, reference = np.eye(6)[[0, 1, 5, 5, 5]], np.eye(6)[[0, 5, 2, 3, 0]]
    result = accuracy("m", model, truth, reference)
    assert (result.gained, result.lost) == (1, 2)  # image 1; images 2 and 3
    assert result.agreement == 20.0  # image 0; on image 4 both are wrong in two ways


def test_sqnr_is_the_power_ratio_over_all_images() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])  # power 50
    logits = reference + np.eye(2) / 2  # noise 0.5
    result = accuracy("m", logits, labels(1, 1), reference)
    assert result.logit_sqnr_db == pytest.approx(20.0, abs=1e-12)
    doubled = accuracy("m", 2 * reference, labels(1, 1), reference)
    assert doubled.logit_sqnr_db == pytest.approx(0.0, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_sqnr_is_none_without_noise_and_without_signal() -> None:
    same = accuracy("m", LOGITS, labels(2, 0, 5, 1), LOGITS)
    assert same.logit_sqnr_db is None
    assert (same.agreement, same.gained, same.lost) == (100.0, 0, 0)
    assert accuracy("m", LOGITS, labels(2, 0, 5, 1), 0 * LOGITS).logit_sqnr_db is None


def test_fewer_than_five_classes_are_all_in_the_top5() -> None:
    assert accuracy("m", np.eye(3), labels(0, 0, 0)).top5 == 100.0


def test_figures_are_plain_json() -> None:
    result = accuracy("m", LOGITS, labels(2, 3, 1, 5), LOGITS + 1)
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["top1"] == 25.0
    assert math.isfinite(data["logit_sqnr_db"])
    assert {type(data[key]) for key in ("gained", "lost", "images")} == {int}
