import hashlib
import json
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from mnq.ops.errors import CheckFailed, InputError
from mnq.runtime import certificate
from mnq.runtime.certificate import check_format, digest, images, seal

SHAPE = (3, 16, 16)
DIGEST = "0123456789abcdef" * 4
CONTENTS: dict[str, Any] = {
    "constants": {DIGEST: ["w", "v"]},
    "nodes": {"a": DIGEST},
    "functions": {"F": {"digest": DIGEST, "nodes": "01234567" * 3}},
    "graph": DIGEST,
    "metadata": {"mnq.model": DIGEST},
}
GOOD = certificate.make(
    images("uint8", SHAPE), {"a": np.zeros(3, np.int8)}, certificate.SEED, CONTENTS
)


# Part of the file format: another digest would make every exported model fail its certificate.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("uint8", "da941d2e3d6e32af49b261bb8784b9746949a0bc2a2672858d57e18c0081b376"),
        ("float", "14642f0a91a2ffb4b91e054cea647e436ac7508b4de66a1d00d2f6ce3ee228fd"),
    ],
)
def test_images_never_change(kind: str, expected: str) -> None:
    assert digest(images(kind, SHAPE)) == expected


def test_images_are_the_bytes_of_sha256_in_counter_mode() -> None:
    found = images("uint8", (1, 2, 33), seed=7, count=1)
    stream = b"".join(hashlib.sha256(f"mnq 7 {block}".encode()).digest() for block in range(3))
    assert found.tobytes() == stream[:66]
    assert (found.dtype, found.shape) == (np.uint8, (1, 1, 2, 33))


def test_float_images_are_multiples_of_a_64th() -> None:
    found = images("float", (3, 64, 64), count=4)
    assert found.dtype == np.float32
    steps = found * 64
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert (steps.min(), steps.max()) == (-160, 159)


def test_images_depend_on_the_seed_and_not_on_their_number() -> None:
    two, three = images("uint8", SHAPE, 1, 2), images("uint8", SHAPE, 1, 3)
    np.testing.assert_array_equal(two, three[:2])
    assert not np.array_equal(two, images("uint8", SHAPE, 2, 2))


def test_images_of_unbounded_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"^certificate: expected at most .* values"):
        images("uint8", (3, 4096, 4096), count=64)


def test_digest_never_changes() -> None:
    values = np.arange(-3, 3, dtype=np.int16).reshape(2, 3)
    assert (
        digest(values)
        == hashlib.sha256(
            b"int16 [2, 3] \xfd\xff\xfe\xff\xff\xff\x00\x00\x01\x00\x02\x00"
        ).hexdigest()
    )


def test_digest_depends_on_dtype_shape_and_every_value() -> None:
    values = np.zeros((2, 3), np.int8)
    other = values.copy()
    other[1, 2] = 1
    variants = [values, other, values.T, values.reshape(6), values[None], values.view(np.uint8)]
    variants += [values.astype(np.int16), np.zeros((), np.int8), np.zeros((1,), np.int8)]
    assert len({digest(variant) for variant in variants}) == len(variants)


def test_digest_does_not_depend_on_the_layout_in_memory() -> None:
    values = np.arange(24, dtype=np.int32).reshape(4, 6)
    same = [np.asfortranarray(values), values.astype(">i4"), np.repeat(values, 2, 0)[::2]]
    assert {digest(variant) for variant in same} == {digest(values)}


def test_make_keeps_the_order_of_execution() -> None:
    tensors = {name: np.zeros(1, np.int8) for name in "cab"}
    made = certificate.make(images("uint8", SHAPE), tensors, certificate.SEED, CONTENTS)
    assert list(made["tensors"]) == ["c", "a", "b"]
    assert (made["seed"], made["images"]) == (certificate.SEED, certificate.IMAGES)
    check_format(made)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "2024"},
        {"seed": 2024.0},
        {"seed": True},
        {"images": 0},
        {"images": 65},
        {"images": 2.0},
        {"images": True},
        {"images": [2]},
        {"input": None},
        {"input": "12"},
        {"tensors": None},
        {"tensors": {}},
        {"tensors": ["a"]},
        {"tensors": {"a": 1}},
        {"tensors": {"a": "12"}},
        {"tensors": {"a": DIGEST.upper()}},
        {"constants": None},
        {"constants": {DIGEST: "w"}},
        {"constants": {DIGEST: [1]}},
        {"constants": {"w": [DIGEST]}},
        {"nodes": {}},
        {"nodes": {"a": DIGEST + "0"}},
        {"functions": []},
        {"functions": {"F": DIGEST}},
        {"functions": {"F": {"digest": DIGEST}}},
        {"functions": {"F": {"digest": DIGEST, "nodes": "0123456"}}},
        {"functions": {"F": {"digest": DIGEST, "nodes": ""}}},
        {"functions": {"F": {"digest": 1, "nodes": "01234567"}}},
        {"graph": DIGEST[1:]},
        {"metadata": {}},
        {"metadata": {"mnq.model": None}},
    ],
)
def test_a_certificate_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    check_format(GOOD)
    with pytest.raises(InputError, match=r"^certificate: expected mnq-certificate/2 .*; export"):
        check_format(seal({**GOOD, **changes}))


@pytest.mark.parametrize("found", ["mnq-certificate/1", None, ["x" * 1000]])
def test_a_certificate_of_another_format_is_named_in_short(found: Any) -> None:
    with pytest.raises(InputError, match=r"expected mnq-certificate/2, found .*; export") as caught:
        check_format({**GOOD, "format": found})
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("key", [key for key in GOOD if key not in ("format", "digest")])
def test_a_certificate_without_a_key_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=r"^certificate: expected mnq-certificate/2 "):
        check_format(seal({k: v for k, v in GOOD.items() if k not in (key, "digest")}))


@pytest.mark.parametrize("change", [{"seed": 2025}, {"digest": "0" * 64}, {"digest": None}])
def test_a_certificate_that_was_changed_is_damaged(change: dict[str, Any]) -> None:
    with pytest.raises(CheckFailed, match=r"found a changed one: its own digest differs; get"):
        check_format({**GOOD, **change})


def test_the_order_of_keys_and_the_spaces_are_no_damage() -> None:
    turned = json.loads(json.dumps(dict(reversed(GOOD.items())), indent=3))
    check_format(turned)


def test_attach_puts_it_into_the_metadata() -> None:
    model = ModelProto()
    certificate.attach(model, GOOD)
    (entry,) = model.metadata_props
    assert entry.key == certificate.KEY == "mnq.certificate"
    assert json.loads(entry.value) == GOOD
