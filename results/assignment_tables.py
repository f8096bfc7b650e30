"""The tables made from deit_t_assignment.json."""

from __future__ import annotations

from typing import Any

from mnq.toolchain.report.paper import COUNTS

KINDS = ("softmax", "gelu", "layernorm")
ORDER = ("ibert", "fqvit", "ivit", "lut")  # the paper's columns, and the table method


def judged(data: dict[str, Any], bits: int) -> str:
    """Every map at one width, judged on images that chose nothing."""
    lines = [
        "| map | top-1 % | agrees with float % | logit SQNR dB | softmax | GELU | LayerNorm |",
        "|---|---|---|---|---|---|---|",
    ]
    prefix = f"{bits} bits, "
    for name, row in data["rows"].items():
        if name.startswith(prefix):
            counts = [_counts(row["counts"][kind]) for kind in KINDS]
            cells = [_label(name.removeprefix(prefix)), *_figures(row), *counts]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _source(data)])


def paper_counts(data: dict[str, Any]) -> str:
    """How often each method was chosen, beside the paper's Table 3."""
    lines = [
        "| DeiT-T, 8 bits | softmax I-BERT/FQ-ViT/I-ViT | GELU I-BERT/I-ViT "
        "| LayerNorm I-BERT/FQ-ViT/I-ViT |",
        "|---|---|---|---|",
        _paper_row("the paper's Table 3", COUNTS["deit_t"]),
    ]
    names = {
        "not equalized, paper, joint, sqnr-absdiff": "joint, sqnr-absdiff, not equalized",
        "paper, joint, sqnr-absdiff": "joint, sqnr-absdiff",
        "paper, joint, sqnr-signed": "joint, sqnr-signed",
        "paper, joint, sqnr-drop": "joint, sqnr-drop",
        "paper, joint, sqnr-output": "joint, sqnr-output",
        "paper, isolated, sqnr-drop": "isolated, sqnr-drop",
    }
    for key, label in names.items():
        for seed, counts in zip(
            data["sample"]["seeds"], data["stability"][f"8 bits, {key}"]["counts"], strict=False
        ):
            lines.append(_paper_row(f"{label}, seed {seed}", counts))
    return "\n".join(lines)


def stability(data: dict[str, Any]) -> str:
    """How many choices two samples of images have in common."""
    lines = [
        "| chosen among the paper's methods | samples | softmax % | GELU % | LayerNorm % |",
        "|---|---|---|---|---|",
    ]
    for name, row in data["stability"].items():
        if ", paper" in name:
            cells = [name.replace(", paper", ""), str(len(row["counts"]))]
            cells += [f"{row['equal'][kind]:.0f}" for kind in KINDS]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep(data: dict[str, Any]) -> str:
    """Mean output SQNR of isolated sites by kind, method and width."""
    found = data["sweep"]
    widths = list(found["same_choice_as_8_bits"]["all"])
    lines = [
        "| site, method | " + " | ".join(f"{bits} bits, dB" for bits in widths) + " |",
        "|---" * (len(widths) + 1) + "|",
    ]
    for name, row in sorted(found["output_sqnr_db"].items()):
        cells = [name, *(f"{row[bits]:.1f}" for bits in widths)]
        lines.append("| " + " | ".join(cells) + " |")
    for methods, same in found["same_choice_as_8_bits"].items():
        cells = [
            f"same choice as at 8 bits, {methods} methods",
            *(f"{v:.0f} %" for v in same.values()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def costs(data: dict[str, Any]) -> str:
    """Milliseconds of each operator."""
    found = data["cost"]
    lines = ["| operator | " + " | ".join(ORDER) + " |", "|---" * (len(ORDER) + 1) + "|"]
    for kind in KINDS:
        row = found["milliseconds"][kind]
        cells = [f"{row[m]:.2f}" if m in row else "-" for m in ORDER]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    machine = found["machine"]
    threads = f"{found['threads']} thread, onnxruntime {machine['onnxruntime']}"
    lines += ["", f"Milliseconds per image, {threads}, function bodies; {machine['processor']}."]
    return "\n".join(lines)


def front(data: dict[str, Any]) -> str:
    """The Pareto front of latency and logits."""
    lines = ["| all sites, ms | logit SQNR, dB |", "|---|---|"]
    lines += [f"| {ms:.0f} | {db:.2f} |" for ms, db in data["cost"]["front"]]
    return "\n".join(lines)


def seconds(data: dict[str, Any]) -> str:
    """How long measuring takes."""
    found = data["seconds"]
    return (
        f"All methods at all sites, {found['images']} images, {found['threads']} threads: isolated "
        f"{found['isolated']:.0f} s, joint {found['joint']:.0f} s; {found['processor']}."
    )


def _label(name: str) -> str:
    return name.replace("paper, ", "mixed, ").replace("all, ", "mixed with lut, ")


def _figures(row: dict[str, Any]) -> list[str]:
    cells = []
    for key in ("top1", "agreement", "logit_sqnr_db"):
        low, high = row["interval95"][key]
        cells.append(f"{row[key]:.1f} ({low:.1f} to {high:.1f})")
    return cells


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[m]} {m}" for m in ORDER if m in counts)


def _paper_row(label: str, counts: dict[str, dict[str, int]]) -> str:
    cells = [label]
    for kind in KINDS:
        methods = ORDER[:3] if kind != "gelu" else ("ibert", "ivit")
        cells.append(" / ".join(str(counts[kind].get(m, 0)) for m in methods))
    return "| " + " | ".join(cells) + " |"


def _source(data: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    sample, calibration = data["sample"], data["calibration"]
    return (
        f"{data['model']}, {data['float']['images']} images of {data['images']}; calibrated on "
        f"{calibration['images']} and chosen on {sample['images']} images (seed "
        f"{sample['seeds'][0]}) of {calibration['source']}; in brackets 95 % bootstrap intervals; "
        f"{versions}; {data['machine']['processor']}."
    )
