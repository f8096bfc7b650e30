"""The ready maps of the bundled digits model."""

from pathlib import Path

import pytest

from mnq.models import digits
from mnq.models.zoo import load
from mnq.ops.registry import METHODS, UNIFORM
from mnq.toolchain import map as maps
from mnq.toolchain.export import graph_of

FOLDER = Path(digits.__path__[0], "maps")
ASSIGNED = {"logits": 8, "logits_6bit": 6, "paper": 8, "paper_6bit": 6}


@pytest.fixture(scope="module")
def sites() -> dict[str, str]:
    return graph_of(load("digits")).sites()


def test_every_map_is_known() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*ASSIGNED, "by_hand"}


@pytest.mark.parametrize("name", ASSIGNED)
def test_an_assigned_map_names_every_site_and_says_why(name: str, sites: dict[str, str]) -> None:
    mapping = maps.read(FOLDER / f"{name}.json", "digits")
    choices = mapping.resolve(sites)
    assert mapping.activation_bits == mapping.weight_bits == ASSIGNED[name]
    assert list(mapping.sites) == list(sites)
    assert mapping.provenance["calibration"]["weights"] == load("digits").weights_digest
    own = name.startswith("paper")
    for site, entry in mapping.sites.items():
        assert choices[site].method == entry["method"]
        assert set(entry["measured"]["figures"]) == set(METHODS[sites[site]]) - (
            {"lut"} if own else set()
        )
        assert entry["measured"]["reason"]


def test_the_map_made_by_hand_shows_every_method(sites: dict[str, str]) -> None:
    mapping = maps.read(FOLDER / "by_hand.json", "digits")
    mapping.resolve(sites)
    assert str(mapping.provenance["made"]).startswith("by hand")
    used = {**mapping.defaults, **{site: entry["method"] for site, entry in mapping.sites.items()}}
    assert set(used.values()) >= set(UNIFORM)
    assert set(METHODS) <= set(mapping.defaults)
