import pytest

from mnq.ops.registry import METHODS
from mnq.toolchain.report.paper import COUNTS

BLOCKS = {"swin_s": 24}


@pytest.mark.parametrize("model", COUNTS)
def test_counts_add_up_to_the_sites_that_the_paper_names(model: str) -> None:
    blocks = BLOCKS.get(model, 12)
    sums = {kind: sum(methods.values()) for kind, methods in COUNTS[model].items()}
    assert sums == {"softmax": blocks, "gelu": blocks, "layernorm": 2 * blocks + 1}


@pytest.mark.parametrize("model", COUNTS)
def test_counts_name_methods_of_the_registry(model: str) -> None:
    for kind, methods in COUNTS[model].items():
        assert set(methods) == set(METHODS[kind]) - {"lut"}


def test_row_of_deit_t() -> None:
    assert COUNTS["deit_t"] == {
        "softmax": {"ibert": 6, "fqvit": 4, "ivit": 2},
        "gelu": {"ibert": 3, "ivit": 9},
        "layernorm": {"ibert": 13, "fqvit": 4, "ivit": 8},
    }
