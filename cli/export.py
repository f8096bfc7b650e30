"""mnq-export: a float model to a verified integer .onnx."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mnq.cli.calibration import BATCH, Ranges, range_options
from mnq.cli.common import (
    COUNT,
    MODEL_HELP,
    SEED,
    Command,
    Screen,
    expect_one,
    map_text,
    need_train,
    output_options,
)
from mnq.cli.mapping import assign_option, bits_option, chosen_map
from mnq.ops.errors import CheckFailed, InputError
from mnq.ops.files import check_writable, write_atomically
from mnq.runtime.modelfile import INPUT_KINDS
from mnq.runtime.overflow import Proven, from_json, sentence, tightest

if TYPE_CHECKING:
    from onnx import ModelProto

    from mnq.toolchain.map import Map

EXAMPLES = """
\b
Examples:
  mnq-export --model deit_s --calib imagenet/train --output deit_s.onnx
  mnq-export --model deit_t --weights deit_t.safetensors --calib images.zip \\
      --assign uniform:ibert --bits 8 --output m.onnx
  mnq-export --model deit_t --assign map.json --calib stats.safetensors --output m.onnx
  mnq-export --model deit_t --weights deit_t.safetensors --assign map.json --dry-run
  mnq-export --model swin_t:features --calib images.zip --output backbone.onnx
                                                     feature maps instead of logits
  mnq-export --checkpoint run/best.safetensors --output m.onnx
"""


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--model", "name", help=MODEL_HELP)
@assign_option
@click.option("--weights", type=Path, help="Float weights (.safetensors, .pth); default: timm's.")
@click.option("--random-weights", type=SEED, metavar="SEED", help="Random weights, to try sizes.")
@click.option(
    "--checkpoint",
    type=Path,
    help="What mnq-qat trained: weights, scales, map and model, in the place of the other options.",
)
@range_options
@bits_option
@click.option(
    "--input",
    "input_kind",
    default="uint8",
    show_default=True,
    help="uint8: raw pixels, mean and std folded in. float: normalized images.",
)
@click.option(
    "--batch", type=COUNT, default=BATCH, show_default=True, help="Calibration batch size."
)
@click.option("--save-calib", type=Path, help="Keep the calibration statistics in this file.")
@click.option("--output", type=Path, help="The .onnx to write.")
@click.option("--dry-run", is_flag=True, help="Print the resolved map and stop.")
@output_options
def main(
    name: str | None,
    assign: str,
    weights: Path | None,
    random_weights: int | None,
    checkpoint: Path | None,
    ranges: Ranges,
    bits: int | None,
    input_kind: str,
    batch: int,
    save_calib: Path | None,
    output: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Calibrate a float vision transformer, turn it into integers, verify and write it.

    The .onnx takes raw uint8 images (N, C, H, W) and returns int32 logits; it needs nothing
    but an ONNX runtime. It is written only if it computes the same integers as PyTorch.
    """
    screen = Screen(as_json, quiet)
    if checkpoint is not None:
        _check_alone(output)
        assert output is not None
        _export_trained(screen, checkpoint, name, output)
        return
    if name is None:
        raise InputError("export: expected --model or --checkpoint, found neither; give one")
    missing = [o for o, given in (("--output", output), ("--calib", ranges.calib)) if given is None]
    if missing and not dry_run:
        raise InputError(
            f"export: expected --output and --calib, found no {missing[0]}; give it, or --dry-run"
        )
    expect_one("--input", input_kind, INPUT_KINDS)
    if output is not None and output == save_calib:
        raise InputError(f"export: expected two files, found {output} twice; rename one")
    for path in (output, save_calib):
        if path is not None:
            check_writable(path)
    need_train()
    # What can be wrong with the options is found before anything slow: images, then the map.
    source = ranges.open() if ranges.calib is not None and not dry_run else None
    mapping = chosen_map(assign, name, bits)
    from mnq.models.zoo import load
    from mnq.toolchain import export as toolchain

    settings = toolchain.Settings(ranges.method, ranges.form, input_kind)
    screen.note(f"loading {name}")
    loaded = load(name, weights, random=random_weights)
    screen.note("capturing")
    graph = toolchain.graph_of(loaded)
    choices = mapping.resolve(graph.sites())
    if dry_run:
        resolved = {
            site: {"method": c.method, **({"attention": c.attention} if kind == "softmax" else {})}
            for (site, kind), c in zip(graph.sites().items(), choices.values(), strict=True)
        }
        payload = {**mapping.to_json(), "sites": resolved}
        screen.result(payload, map_text(payload))
        return
    assert output is not None
    with nullcontext() if source is None else source:
        statistics = ranges.statistics(screen, source, loaded, graph, batch)
    skipped = 0 if source is None else len(source.skipped)
    if save_calib is not None:
        from mnq.toolchain.calibrate import save_statistics

        save_statistics(statistics, save_calib)
    screen.note("lowering and certifying")
    proto = toolchain.export(loaded, graph, statistics, mapping, settings)
    _finish(screen, proto, mapping, output, {"calibration": statistics.provenance}, skipped)


def _check_alone(output: Path | None) -> None:
    """Raise InputError if an option is given that has no meaning beside --checkpoint."""
    context = click.get_current_context()
    allowed = {"checkpoint", "name", "output", "as_json", "quiet"}
    for parameter in context.command.params:
        key = parameter.name or ""
        given = context.get_parameter_source(key) is ParameterSource.COMMANDLINE
        if given and key not in allowed:
            raise InputError(
                f"export: expected only --output beside --checkpoint, which holds everything else, "
                f"found {parameter.opts[0]}; leave it out"
            )
    if output is None:
        raise InputError("export: expected --output beside --checkpoint, found none; give it")
    check_writable(output)


def _export_trained(screen: Screen, path: Path, name: str | None, output: Path) -> None:
    need_train()
    from mnq.models.zoo import load
    from mnq.toolchain import export as toolchain
    from mnq.toolchain import map as maps
    from mnq.toolchain.checkpoint import read

    trained = read(path)
    model = str(trained.header["model"]) if name is None else name
    screen.note(f"loading {model} of {path}")
    loaded = load(model, random=0, most=trained.most_parameters())
    proto = toolchain.export_trained(loaded, trained)
    mapping = maps.from_json(trained.header["map"], model, str(path))
    _finish(screen, proto, mapping, output, {"checkpoint": str(path)})


def _finish(
    screen: Screen,
    proto: ModelProto,
    mapping: Map,
    output: Path,
    origin: dict[str, Any],
    skipped: int = 0,
) -> None:
    """Verify and write a model, and say so."""
    screen.note("verifying")
    tensors, proved = _verified(proto, output)
    data = proto.SerializeToString()
    write_atomically(output, data)
    payload = {
        "output": str(output),
        "bytes": len(data),
        "model": mapping.model,
        "bits": {"activations": mapping.activation_bits, "weights": mapping.weight_bits},
        **origin,
        "skipped_images": skipped,
        "verified_tensors": tensors,
        "differing_tensors": 0,
        "overflow": tightest(proved),
    }
    line = (
        f"{output}: {len(data) / 1e6:.1f} MB, integers only, {tensors} tensors equal to PyTorch's"
    )
    screen.note(sentence(proved))
    screen.result(payload, line + (f"; {skipped} images skipped" if skipped else ""))
    screen.note(f"next: mnq-eval {output} --images DIR")


def _verified(proto: ModelProto, output: Path) -> tuple[int, list[Proven]]:
    """How many tensors equal PyTorch's, and their ranges.

    Raises CheckFailed unless all do and none is float.
    """
    from mnq.runtime import verify
    from mnq.runtime.modelfile import parse

    model = parse(proto, str(output))
    report = verify.check_purity(model)
    for kernels in verify.forms():
        report.runs.append(verify.check_certificate(model, "all", kernels=kernels))
    if not report.passed:
        faults = [str(run.first) for run in report.runs if run.first]
        faults += [f"float tensor {name!r}" for name in report.float_tensors]
        first = faults[0]
        raise CheckFailed(
            f"export: expected the integers of PyTorch, found a difference: {first}; nothing was "
            "written; run mnq-doctor and report this"
        )
    return report.runs[0].tensors, from_json(model.overflow)
