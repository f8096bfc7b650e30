"""How to read a report: definitions, what the paper leaves open, where the figures come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mnq.toolchain.report.markup import Html, element, join, table
from mnq.toolchain.report.view import View

_TERMS: tuple[tuple[str, str], ...] = (
    (
        "Site",
        "A softmax, GELU or LayerNorm of the model. 22.softmax is the 22nd site in execution "
        "order; the tables give its name in PyTorch too.",
    ),
    (
        "Method",
        "How a site is computed in integers only: I-ViT by shifts, I-BERT by polynomials, FQ-ViT "
        "by base-2 logarithms (and a LayerNorm of its own), or from a table of the exact function. "
        "Not every method has every kind. In a uniform map another method stands in there; a "
        "stand-in is not shown as that method's figure.",
    ),
    (
        "SQNR, in dB",
        "Signal-to-quantization-noise ratio: 10 log₁₀ of the power of the float model's tensor "
        "over the power of its difference to the integer model's, over all images. More is "
        "better: 20 dB is 1 % of noise power, 10 dB is 10 %.",
    ),
    (
        "β and γ, the paper's ASQNR",
        "20 log₁₀( 1/N · Σᵢ E[xᵢ²] / E[(xᵢ − qᵢ)²] ) over N images (Eq. 10): β of a site's "
        "output, γ of its input; x is the float model's tensor, q the integer model's. It takes "
        "20 log₁₀ of a ratio of powers, which is twice the usual dB, and averages ratios, so that "
        "the best images weigh most. The input is taken where the operator reads, the output "
        "before it is requantized.",
    ),
    (
        "SQNR diff",
        "β−γ (Eq. 11): what the site adds to the noise that it was given.",
    ),
    (
        "Joint and isolated",
        "Joint: the whole model is quantized, as in the paper, so that a site's input carries the "
        "noise of everything before it. Isolated: one site at a time is quantized in the float "
        "model.",
    ),
    (
        "Logit SQNR",
        "SQNR in dB of the whole quantized model's outputs, the class scores: what all choices "
        "amount to.",
    ),
)

_OPEN = (
    "The paper chooses “the method with the lowest SQNR diff” and prints positive values only, "
    "while β−γ is often negative; the smallest β−γ would then be the most harmful method. It "
    "does not say whether it means β−γ, its absolute value or γ−β; mnq-assign has a rule for "
    "each (sqnr-signed, sqnr-absdiff, sqnr-drop), and they choose differently. It counts 122 "
    "measurements, 3·12 + 3·12 + 2·25, which swaps GELU and LayerNorm: by its own Eq. 9 there are "
    "3·12 + 3·25 + 2·12 = 135."
)


def definitions() -> Html:
    """The terms and the paper's ambiguities."""
    terms = [
        part for term, meaning in _TERMS for part in (element("dt", term), element("dd", meaning))
    ]
    return join(
        element("dl", *terms), element("h3", "What the paper leaves open"), element("p", _OPEN)
    )


def source(view: View) -> Html:
    """What was measured and what the map says about itself, as it stands in the files."""
    rows = [("model", view.measurements.model), *_flat(view.measurements.subject)]
    parts = [element("h3", "Measurements"), table([], rows, "source")]
    if view.provenance:
        parts += [element("h3", "Map"), table([], _flat(view.provenance), "source")]
    return join(*parts)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Keys and values of nested objects, a dot between the keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", str(value)
