"""The tables of methods and operators."""

from pathlib import Path

import pytest

from mnq.ops import registry
from mnq.ops.registry import (
    ATTENTION,
    GELU,
    LAYERNORM,
    METHODS,
    OPERATORS,
    PACKED_ATTENTION,
    SOFTMAX,
    UNIFORM,
    WINDOW_ATTENTION,
    with_calls,
)

TIE_ORDER = ("ivit", "ibert", "fqvit", "lut")


def test_methods_stand_in_the_order_that_breaks_ties() -> None:
    assert METHODS == {
        "softmax": ("ivit", "ibert", "fqvit", "lut"),
        "gelu": ("ivit", "ibert", "lut"),
        "layernorm": ("ivit", "ibert", "fqvit"),
    }
    for names in METHODS.values():
        assert list(names) == [name for name in TIE_ORDER if name in names]


def test_uniform_names_a_method_of_every_kind_that_exists() -> None:
    assert tuple(UNIFORM) == TIE_ORDER
    for name, choice in UNIFORM.items():
        assert set(choice) == set(METHODS)
        for kind, method in choice.items():
            assert method in METHODS[kind]
            assert method == name or name not in METHODS[kind]


def test_stand_ins_are_those_of_the_specification() -> None:
    assert UNIFORM["fqvit"]["gelu"] == "ivit"
    assert UNIFORM["lut"]["layernorm"] == "ibert"


def test_operators_are_named_after_method_and_kind() -> None:
    prefixes = {"ivit": "IVit", "ibert": "IBert", "fqvit": "FqVit", "lut": "Lut"}
    for table, kind in ((SOFTMAX, "Softmax"), (GELU, "Gelu"), (LAYERNORM, "LayerNorm")):
        for name, method in table.items():
            assert method.prefix == prefixes[name]
            assert method.operator.name == f"{method.prefix}{kind}"
    for name, forms in ATTENTION.items():
        assert {form: operator.name for form, operator in forms.items()} == {
            "deferred": f"{prefixes[name]}Attention",
            "normalized": f"{prefixes[name]}NormalizedAttention",
        }
        assert [PACKED_ATTENTION[operator.name].name for operator in forms.values()] == [
            f"{prefixes[name]}PackedAttention",
            f"{prefixes[name]}NormalizedPackedAttention",
        ]
        assert [WINDOW_ATTENTION[operator.name].name for operator in forms.values()] == [
            f"{prefixes[name]}WindowAttention",
            f"{prefixes[name]}NormalizedWindowAttention",
        ]


def test_operators_are_listed_under_their_own_names() -> None:
    assert all(operator.name == name for name, operator in OPERATORS.items())
    assert len(OPERATORS) == 9 + len(SOFTMAX) + len(GELU) + len(LAYERNORM) + 6 * len(SOFTMAX)


@pytest.mark.parametrize("name", OPERATORS)
def test_calls_name_registered_operators(name: str) -> None:
    assert set(OPERATORS[name].calls) <= set(OPERATORS)
    assert name not in OPERATORS[name].calls


@pytest.mark.parametrize("name", OPERATORS)
def test_with_calls_puts_callees_first(name: str) -> None:
    names = [operator.name for operator in with_calls([name])]
    assert names[-1] == name
    for at, each in enumerate(names):
        assert set(OPERATORS[each].calls) <= set(names[:at])


def test_with_calls_lists_each_once_whatever_the_order_of_the_names() -> None:
    names = ["QLinearAdd", "IBertAttention", "QLinear", "Requantize", "QLinear"]
    got = [operator.name for operator in with_calls(names)]
    assert got == [operator.name for operator in with_calls(reversed(names))]
    assert sorted(got) == [
        "IBertAttention", "QLinear", "QLinearAdd", "QMatMul", "Requantize", "RequantizeAdd",
    ]  # fmt: skip


def test_gelus_of_a_single_code_are_elementwise_and_nothing_else_is() -> None:
    elementwise = {name for name, operator in OPERATORS.items() if operator.elementwise}
    assert elementwise == {"IBertGelu", "LutGelu"}


def test_fused_operators_call_their_parts() -> None:
    assert OPERATORS["QLinear"].calls == ("Requantize",)
    assert OPERATORS["QLinearAdd"].calls == ("RequantizeAdd",)
    assert OPERATORS["QLinearLut"].calls == ("QLinear", "LutGelu")
    assert OPERATORS["QMatMul"].calls == ("Requantize",)
    for name, forms in ATTENTION.items():
        assert forms["deferred"].calls == ("QMatMul", "Requantize")
        softmax = SOFTMAX[name].operator.name
        assert forms["normalized"].calls == ("QMatMul", softmax, "Requantize")
        for operator in forms.values():
            assert PACKED_ATTENTION[operator.name].calls == (operator.name,)
            assert WINDOW_ATTENTION[operator.name].calls == operator.calls


def test_every_operator_folder_has_a_test_of_its_name() -> None:
    folders = {path.parent.name for path in Path(registry.__file__).parent.glob("*/op.py")}
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert folders - tests == set()
