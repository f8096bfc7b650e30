import pytest

from mnq.toolchain.report.sites import Site


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("blocks.5.attn.softmax", "5"),
        ("layers.2.blocks.0.norm1", "2.0"),
        ("layers.1.downsample.norm", ""),
        ("norm", ""),
        ("myblocks.3x", ""),
    ],
)
def test_block_of_a_site(name: str, block: str) -> None:
    assert Site(1, name, "layernorm").block == block


def test_label_is_the_papers() -> None:
    assert Site(22, "blocks.5.attn.softmax", "softmax").label == "22.softmax"
