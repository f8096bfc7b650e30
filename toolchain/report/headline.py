"""The top of a report: what was chosen, how, and what that does to the logits."""

from __future__ import annotations

from mnq.toolchain.assign import RULES
from mnq.toolchain.explain import name as method_name
from mnq.toolchain.measurements import CHOSEN
from mnq.toolchain.report.markup import Html, element, join, number, table
from mnq.toolchain.report.sites import MEASURED
from mnq.toolchain.report.tables import method_tag
from mnq.toolchain.report.view import View


def headline(view: View) -> Html:
    """The key sentence, tiles, and the logits of every uniform map and the chosen one."""
    return join(
        element("p", how_chosen(view)),
        element("p", key_result(view), class_="key"),
        _tiles(view),
        _logits(view),
    )


def how_chosen(view: View) -> Html:
    """A sentence on where the map comes from, and one on the figures."""
    shown = f"The figures below are measured {MEASURED[view.measure]} ({view.measure}), "
    shown += f"at {view.bits} bits, on {view.images} images."
    if view.mapping is None:
        return join("Measurements without a map. ", shown)
    rule = view.provenance.get("rule")
    if view.rule is None:
        how = (
            f"The map was chosen by {rule}. "
            if rule
            else "The map does not say how it was chosen. "
        )
        return join(how, shown)
    names = listed([method_name(method) for method in view.allowed()])
    parts = [f"Every site got one of {names}. The rule ", element("code", rule), " chose "]
    parts.append(view.rule.text)
    if rule in RULES and view.provenance.get("measure") in MEASURED:
        parts.append(f", measured {MEASURED[view.provenance['measure']]}")
    if "budget_ms" in view.provenance:
        parts.append(f", within {view.provenance['budget_ms']} ms")
    return join(*parts, ". ", shown)


def key_result(view: View) -> Html:
    """A sentence on the logits of the chosen map and of the uniform ones."""
    logits = {name: run.logits.sqnr_db() for name, run in view.models().items()}
    chosen = logits.pop(CHOSEN, None)
    inside = {m: db for m, db in logits.items() if m in view.allowed()}
    best = max(logits, key=lambda m: logits[m], default=None)
    if chosen is None:
        parts = []
        if best is not None:
            parts.append(f"Best for the logits among the uniform maps: {_quoted(best, logits)}.")
        if view.mapping is not None:
            parts.append("This map's effect on the logits was not measured.")
        return join(" ".join(parts))
    sentence = f"The logits of the chosen map keep an SQNR of {number(chosen)} dB"
    if inside:
        rival = max(inside, key=lambda m: inside[m])
        sentence += f", {_compared(chosen - inside[rival])} the best uniform map"
        sentence += "" if len(inside) == len(logits) else " of the same methods"
        sentence += f", {_quoted(rival, inside)}"
    if best is not None and best not in inside:
        sentence += f"; {_quoted(best, logits)} was not among the methods to choose from"
    return join(sentence, ".")


def _quoted(method: str, logits: dict[str, float]) -> str:
    return f"{method_name(method)} ({number(logits[method])} dB)"


def _compared(gain: float) -> str:
    if abs(gain) < 0.05:
        return "the same as"
    return f"{number(abs(gain))} dB {'better' if gain > 0 else 'worse'} than"


def listed(names: list[str]) -> str:
    """Names as a sentence has them: a, b or c."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _tiles(view: View) -> Html:
    chosen = view.models().get(CHOSEN)
    sites = len(view.sites)
    tiles = [(f"{view.bits} bits", _weights(view)), (sites, "non-linear sites")]
    if view.choices:
        used = dict.fromkeys(view.choices.values())
        tiles.append((len(used), "methods in use" if len(used) > 1 else "method in use"))
    if chosen is not None:
        tiles.insert(0, (f"{number(chosen.logits.sqnr_db())} dB", "logit SQNR of the chosen map"))
    return element(
        "ul",
        *(element("li", element("b", value), " ", label) for value, label in tiles),
        class_="tiles",
    )


def _weights(view: View) -> str:
    if view.mapping is None:
        return "activations"
    return f"activations; weights {view.mapping.weight_bits} bits"


def _logits(view: View) -> Html:
    """Bars of the logits' SQNR, best first; nothing where there is nothing to compare."""
    found: list[tuple[float, object, int, bool]] = []
    for name, run in view.models().items():
        chosen = name == CHOSEN
        label = element("b", "chosen map") if chosen else join("uniform ", method_tag(name))
        found.append((run.logits.sqnr_db(), label, len(run.logits.signal), chosen))
    if len(found) < 2:
        return Html("")
    most = max(*(db for db, *_ in found), 1e-9)
    rows = [
        [
            label,
            number(db, 2),
            element(
                "td",
                element(
                    "span",
                    class_="bar chosen" if chosen else "bar",
                    style=f"width:{max(0.0, 100 * db / most):.1f}%",
                ),
                class_="track",
            ),
            images,
        ]
        for db, label, images, chosen in sorted(found, key=lambda item: -item[0])
    ]
    return table(["map", "logit SQNR, dB", "", "images"], rows, "numbers logits")
