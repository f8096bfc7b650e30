"""mnq-eval: accuracy of .onnx files and of the float model, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from mnq.cli.common import (
    COUNT,
    Command,
    Screen,
    expect_one,
    kernels_option,
    need_train,
    output_options,
    threads_option,
)
from mnq.cli.feature_maps import judge_maps, map_table
from mnq.cli.judge import Candidate, float_predict, judge, onnx_predict
from mnq.ops.errors import InputError
from mnq.runtime.accuracy import Accuracy

if TYPE_CHECKING:
    from mnq.models.images import ImageSet
    from mnq.models.zoo import LoadedModel
    from mnq.runtime.modelfile import ModelFile

EXAMPLES = """
\b
Examples:
  mnq-eval m.onnx --images imagenet/val --limit 500
  mnq-eval ivit.onnx ibert.onnx --images photos.zip --float-weights deit_t.safetensors
  mnq-eval other.onnx --model deit_t --images photos.zip      any float .onnx
  mnq-eval backbone.onnx --images photos.zip --float          feature maps, see mnq-export
"""


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("paths", metavar="MODEL.ONNX...", nargs=-1, type=Path)
@click.option("--images", required=True, type=Path, help="ImageFolder or .zip of one.")
@click.option("--model", "name", help="Model name; needed where no .onnx is one of ours.")
@click.option("--float-weights", type=Path, help="Also judge the float model, as the reference.")
@click.option("--float", "use_float", is_flag=True, help="The same with timm's own weights.")
@click.option("--limit", type=COUNT, help="Use this many images, evenly spread.  [all]")
@click.option("--batch", type=COUNT, default=8, show_default=True, help="Images per run.")
@click.option("--provider", default="cpu", show_default=True, help="cpu or cuda.")
@threads_option
@kernels_option("kernels, if there are any")
@output_options
def main(
    paths: tuple[Path, ...],
    images: Path,
    name: str | None,
    float_weights: Path | None,
    use_float: bool,
    limit: int | None,
    batch: int,
    provider: str,
    threads: int,
    kernels: bool | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Top-1 and top-5 of models on labelled images.

    With the float model as reference also: agreement of answers, SQNR of the logits, and the
    images that were won and lost. Folders named by WordNet id are matched to ImageNet classes.
    Of models that return feature maps: the SQNR of every map.
    """
    from mnq.models.images import ImageSet, batches, choose, label_index
    from mnq.runtime.modelfile import metadata, parse, read_proto
    from mnq.runtime.session import PROVIDERS

    screen = Screen(as_json, quiet)
    expect_one("--provider", provider, PROVIDERS)
    with_float = use_float or float_weights is not None
    if not paths and not with_float:
        raise InputError("eval: expected an .onnx or --float, found neither; see --help")
    source = ImageSet.open(images)
    protos = {path: read_proto(path) for path in paths}
    ours = {p: parse(proto, str(p)) for p, proto in protos.items() if metadata(proto)}
    first = next(iter(ours.values()), None)
    chosen = name or (first.name if first else None)
    if chosen is None:
        raise InputError("eval: expected --model for an .onnx that is not ours; see --help")
    loaded = None
    if with_float or first is None:
        loaded = _load(chosen, float_weights, with_float)
    options: dict[str, Any] = {"provider": provider, "threads": threads, "kernels": kernels}
    info: LoadedModel | ModelFile | None = loaded or first
    assert info is not None
    for path, model in ours.items():
        if model.preprocess != info.preprocess or model.classes != info.classes:
            raise InputError(
                f"eval: expected models with one preprocessing and one class list, found another "
                f"in {path}; judge it in a run of its own"
            )
    total = len(choose(len(source), limit, None))
    if any(len(model.output_scales) > 1 for model in ours.values()):
        if loaded is None or not with_float or len(ours) < len(protos):
            raise InputError(
                "eval: expected --float or --float-weights beside models that return feature "
                "maps, and no other models, found otherwise; maps have no accuracy of their own"
            )
        with source:
            stream = batches(source, info.preprocess, batch, limit=limit)
            maps = judge_maps(screen, ours, loaded, stream, total, **options)
        _show(screen, source, images, {"maps": [m.to_json() for m in maps]}, map_table(maps))
        return
    candidates = []
    if with_float and loaded is not None:
        candidates.append(Candidate(f"{chosen} (float)", float_predict(loaded)))
    for path, proto in protos.items():
        scale = ours[path].output_scale if path in ours else 1.0
        predict = onnx_predict(proto, str(path), info.preprocess, scale, **options)
        candidates.append(Candidate(str(path), predict))
    with source:
        labels = label_index(source.classes, info.classes) if source.classes else {}
        stream = batches(source, info.preprocess, batch, limit=limit, labels=labels)
        results = judge(screen, candidates, stream, total, with_float)
    _show(screen, source, images, {"models": [r.to_json() for r in results]}, _table(results))


def _show(
    screen: Screen, source: ImageSet, images: Path, figures: dict[str, Any], table: Table
) -> None:
    """The figures, and the images that are not among them."""
    for item, reason in source.skipped:
        screen.warn(f"skipped image {item}: {reason}")
    payload = {"images": str(images), "skipped_images": len(source.skipped), **figures}
    screen.result(payload, table)


def _load(name: str, weights: Path | None, with_weights: bool) -> LoadedModel:
    """The float model; with random weights where only its preprocessing is wanted."""
    need_train()
    from mnq.models.zoo import load

    return load(name, weights, random=None if with_weights else 0)


def _table(results: list[Accuracy]) -> Table:
    table = Table(box=None, pad_edge=False)
    heads = ("model", "images", "top-1 %", "top-5 %", "agree %", "SQNR dB", "won", "lost")
    for head in heads:
        table.add_column(head, justify="left" if head == "model" else "right")

    def show(value: float | int | None, digits: int = 1) -> str:
        if value is None:
            return "-"
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    for r in results:
        cells = (r.images, r.top1, r.top5, r.agreement, r.logit_sqnr_db, r.gained, r.lost)
        table.add_row(r.name, *(show(cell) for cell in cells))
    return table
