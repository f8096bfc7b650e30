"""Steps of training: the recipe's formulas, and the same run whatever interrupts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from toolchain_harness import Quantized
from toolchain_models import MEAN, SIZE, STD
from toolchain_training import Parts, example, same, snapshot
from torch.nn.functional import cross_entropy

from mnq.toolchain.checkpoint import WEIGHT
from mnq.toolchain.distill import ask, distance
from mnq.toolchain.image import image_input
from mnq.toolchain.train import Diverged, Trainer


@pytest.fixture(scope="module")
def parts(quantized: Quantized) -> Parts:
    image = image_input("uint8", MEAN, STD, (3, SIZE, SIZE))
    return Parts(quantized.graph, quantized.prepared, quantized.statistics, image)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def steps(trainer: Trainer, pixels: torch.Tensor, last: int) -> list[float]:
    """Train to step `last`; the losses."""
    return [trainer.train_step(*example(pixels, n)) for n in range(trainer.step, last)]


def go_astray(trainer: Trainer, parts: Parts, pixels: torch.Tensor) -> None:
    """Give a fresh trainer the weights of another one that learned random answers."""
    other = parts.trainer(learning_rate=3e-3)
    steps(other, pixels, 3)
    found = snapshot(other)
    trainer.restore({name: found[name] for name in trainer.tensors()}, 0)


def moments(trainer: Trainer, kind: str = "exp_avg") -> dict[str, torch.Tensor]:
    """After one step exp_avg is a tenth of the gradient."""
    return {n: v for n, v in snapshot(trainer).items() if n.startswith(f"{kind}:")}


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in tensors.values()))


def test_the_rate_is_a_cosine_from_one_to_the_floor(parts: Parts) -> None:
    trainer = parts.trainer(batches=5, floor=0.2)
    factors = []
    for trainer.step in range(13):  # ten steps, and beyond
        factors.append(trainer.factor())
    assert factors[0] == 1
    assert factors[5] == pytest.approx(0.6)  # the middle of 1 and 0.2
    assert factors[10:] == pytest.approx([0.2] * 3)
    assert all(a > b for a, b in pairwise(factors[:11]))
    # Symmetric around the middle, as a cosine is, and flat at both ends.
    assert factors[2] - 0.6 == pytest.approx(0.6 - factors[8])
    assert factors[0] - factors[1] < (factors[4] - factors[5]) / 3


def test_every_group_has_its_rate_times_the_factor_of_the_step(
    parts: Parts, pixels: torch.Tensor
) -> None:
    trainer = parts.trainer(ranges="learned", range_rate=0.5, learning_rate=0.25)
    factors = []
    for number in range(2):
        factors.append(trainer.factor())
        trainer.train_step(*example(pixels, number))
    assert factors[0] == 1 > factors[1]
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == [0.25 * factors[1], 0.25 * factors[1], 0.5 * factors[1]]


def test_weight_decay_acts_on_matrices_only(parts: Parts, pixels: torch.Tensor) -> None:
    decays = [parts.trainer(weight_decay=w, ranges="learned") for w in (0.0, 8.0)]
    before = snapshot(decays[0])
    for trainer in decays:
        steps(trainer, pixels, 1)
    without, found = (snapshot(trainer) for trainer in decays)
    matrices = {n for n, v in before.items() if n.startswith(WEIGHT) and v.ndim > 1}
    assert matrices and {n for n in before if n.startswith(WEIGHT)} - matrices
    assert "ranges:log_scale" in set(found) - matrices
    for name, value in found.items():
        if name not in matrices:
            assert torch.equal(value, without[name]), name
            continue
        # AdamW takes rate * decay = 0.008 of the old weight away. Each of the two results was
        # rounded twice, by 2^-24 of at most the largest weight: four such errors.
        least = 4 * 2.0**-24 * float(before[name].abs().max())
        torch.testing.assert_close(without[name] - value, 0.008 * before[name], rtol=0, atol=least)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_mixes_cross_entropy_with_the_divergence_from_the_float_model(
    parts: Parts, quantized: Quantized, pixels: torch.Tensor, weight: float
) -> None:
    trainer = parts.trainer(distillation=weight)
    steps(trainer, pixels, 2)  # away from the float model
    targets = example(pixels, 0, 16)[1]
    found = trainer.model.program().logits(pixels).double()
    student, teacher = found.log_softmax(1), quantized.logits.double().log_softmax(1)
    divergence = (teacher.exp() * (teacher - student)).sum(1).mean()
    expected = (1 - weight) * -(targets * student).sum(1).mean() + weight * divergence
    assert divergence > 0.01
    # Logarithms in float32, of up to 32: an error of 2^-19 each, in means of both models'.
    assert trainer.train_step(pixels, targets) == pytest.approx(float(expected), abs=2.0**-18)


@pytest.mark.parametrize("weight", [0.5, 20.0])
def test_the_distance_from_the_float_models_features_is_added(
    parts: Parts, quantized: Quantized, pixels: torch.Tensor, weight: float
) -> None:
    trainer, plain = (parts.trainer(feature_distillation=w) for w in (weight, 0.0))
    names = trainer.model.features()
    assert names and trainer.features == names and not plain.features
    for each in (trainer, plain):
        go_astray(each, parts, pixels)
    wanted = ask(quantized.graph, quantized.normalized[:4], names)[1:]
    with torch.no_grad():
        far = float(distance(trainer.model.tensors(pixels[:4], names)[1:], wanted))
    images, targets = pixels[:4], example(pixels, 0)[1]
    assert 1e-3 < far < 1
    expected = plain.train_step(images, targets) + weight * far
    assert trainer.train_step(images, targets) == pytest.approx(expected, rel=1e-5)


def test_distilled_features_come_closer_to_the_float_models(
    parts: Parts, quantized: Quantized, pixels: torch.Tensor
) -> None:
    trainer = parts.trainer(feature_distillation=10.0, distillation=1.0, epochs=10)
    go_astray(trainer, parts, pixels)
    names = trainer.features
    wanted = ask(quantized.graph, quantized.normalized, names)[1:]

    def far() -> float:
        with torch.no_grad():
            return float(distance(trainer.model.tensors(pixels, names)[1:], wanted))

    before = far()
    steps(trainer, pixels, 20)
    assert far() < 0.5 * before


def test_distillation_alone_reads_no_labels(parts: Parts, pixels: torch.Tensor) -> None:
    first, second = (parts.trainer(distillation=1.0) for _ in range(2))
    images, targets = example(pixels, 0)
    assert first.train_step(images, targets) == second.train_step(images, targets * math.nan)
    assert same(snapshot(first), snapshot(second))


def test_distillation_without_a_float_model_is_refused(
    parts: Parts, refusal: Callable[..., str]
) -> None:
    for recipe in ({"distillation": 0.5}, {"feature_distillation": 1.0}):
        trainer = parts.trainer(**recipe)
        text = refusal(Trainer, trainer.model, trainer.recipe, 2, None)
        assert "expected a float model to distill from, found none" in text


@pytest.mark.parametrize(("size", "what"), [(math.nan, "loss nan"), (1e30, "gradient inf")])
def test_what_is_not_finite_stops_the_run_and_changes_nothing(
    parts: Parts, pixels: torch.Tensor, size: float, what: str
) -> None:
    """A loss of 1e30 is finite, its gradient's square is not."""
    trainer, other = parts.trainer(ranges="learned"), parts.trainer(ranges="learned")
    for each in (trainer, other):
        steps(each, pixels, 2)
    before = snapshot(trainer)
    images, targets = example(pixels, 7)
    with pytest.raises(Diverged) as caught:
        trainer.train_step(images, targets * size)
    assert f"found the {what} in step 3 (epoch 2); go on from the last" in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    assert trainer.step == 2 and same(snapshot(trainer), before)
    # Nor does the next step notice.
    assert steps(trainer, pixels, 3) == steps(other, pixels, 3)
    assert same(snapshot(trainer), snapshot(other))


def test_a_gradient_is_clipped_to_its_largest_norm_and_a_small_one_is_not(
    parts: Parts, pixels: torch.Tensor
) -> None:
    free, wide, clipped = (parts.trainer(clip=clip) for clip in (0.0, 1e6, 0.25))
    for trainer in (free, wide, clipped):
        trainer.train_step(*example(pixels, 0))
    assert same(snapshot(free), snapshot(wide))
    whole = norm(moments(free)) * 10
    assert whole > 0.5
    # torch divides by the norm + 1e-6: here less than 1e-5 of it.
    assert norm(moments(clipped)) * 10 == pytest.approx(0.25, rel=1e-5)
    for name, value in moments(clipped).items():
        want = moments(free)[name] * (0.25 / whole)
        torch.testing.assert_close(value, want, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["ema", "learned"])
def test_what_goes_on_from_any_step_ends_in_the_same_bits(
    parts: Parts, pixels: torch.Tensor, kind: str
) -> None:
    whole = parts.trainer(ranges=kind, clip=1.0)
    states = [snapshot(whole)]
    for number in range(1, 5):
        steps(whole, pixels, number)
        states.append(snapshot(whole))
    assert not any(same(a, b) for a, b in pairwise(states))
    moving = {name for name in states[0] if not torch.equal(states[0][name], states[4][name])}
    weights = {name for name in states[0] if name.startswith(WEIGHT)}
    assert moving == {*weights, "ranges:largest", *(["ranges:log_scale"] * (kind == "learned"))}
    for number, state in enumerate(states):
        other = parts.trainer(ranges=kind, clip=1.0)
        other.restore({name: value.clone() for name, value in state.items()}, number)
        assert other.step == number and same(snapshot(other), state)
        steps(other, pixels, 4)
        assert same(snapshot(other), states[4]), number
        logits = [t.model.program().logits(pixels) for t in (other, whole)]
        assert torch.equal(*logits)


def test_restored_tensors_are_copies(parts: Parts, pixels: torch.Tensor) -> None:
    first, second = parts.trainer(ranges="learned"), parts.trainer(ranges="learned")
    steps(first, pixels, 1)
    state = first.tensors()
    second.restore(state, 1)
    before = snapshot(first)
    steps(second, pixels, 2)
    assert same(snapshot(first), before)


def test_tensors_of_another_run_are_refused(
    parts: Parts, pixels: torch.Tensor, refusal: Callable[..., str]
) -> None:
    trainer = parts.trainer()
    fresh = snapshot(trainer)
    steps(trainer, pixels, 1)
    state = snapshot(trainer)
    name = next(iter(state))
    learned = snapshot(parts.trainer(ranges="learned"))
    cases = {
        "ranges:log_scale": (learned, 0),
        "more": ({**fresh, "more": torch.zeros(1)}, 0),
        name: ({key: value for key, value in state.items() if key != name}, 1),
        f"{name}'": ({**state, name: state[name][..., :-1]}, 1),
        f"'{name}": ({**state, name: state[name].double()}, 1),
        "exp_avg:": (fresh, 1),  # a step was made, its moments are not there
        "exp_avg_sq:": ({n: v for n, v in state.items() if "exp_avg_sq" not in n}, 1),
    }
    for expected, (tensors, step) in cases.items():
        other = parts.trainer()
        text = refusal(other.restore, tensors, step)
        assert "tensors of this model" in text and "found others (different: " in text
        assert expected in text and "resume with the options of the run" in text
        assert other.step == 0 and same(snapshot(other), fresh)


def test_the_recipe_of_a_header_is_json_of_all_that_it_depends_on(parts: Parts) -> None:
    found = parts.trainer(seed=3).recipe_json()
    assert (found["seed"], found["epochs"], found["ranges"]) == (3, 2, "ema")
    assert len(found) == 13


def test_labels_train_as_certain_targets(parts: Parts, pixels: torch.Tensor) -> None:
    """The loss is the mean cross-entropy of the deployed integers."""
    trainer = parts.trainer()
    labels = torch.arange(4)
    expected = cross_entropy(trainer.model.program().logits(pixels[:4]), labels)
    found = trainer.train_step(pixels[:4], torch.nn.functional.one_hot(labels, 10).float())
    assert found == pytest.approx(float(expected), rel=1e-6)  # float32, four terms
