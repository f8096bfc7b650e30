"""`mnq VERB`: every mnq-VERB command under one name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from mnq.cli.common import OneLineUsage

VERBS = {
    "assign": "Measure every integer method at every site, and choose.",
    "export": "Calibrate a float model and write a verified integer .onnx.",
    "qat": "Train an integer model as it will be deployed.",
    "search": "Train an integer model that learns its bit-widths, head by head.",
    "verify": "Prove that an exported .onnx computes its reference integers.",
    "lint": "Say what in an .onnx is float, differs between machines, or is slow.",
    "eval": "Accuracy of .onnx files and the float model, side by side.",
    "bench": "Speed, size and memory of an exported .onnx beside its peers.",
    "demo": "The whole way on the bundled digits model.",
    "report": "Explain measurements and maps: a page, a table, a comparison.",
    "doctor": "Check this machine.",
}


class Group(OneLineUsage, click.Group):
    """A click group that prints wrong use as one line."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of that name; an unknown one is one line and status 2."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise self.refuse(ctx, error) from error


class Verbs(Group):
    """Loads a verb's module only when it is used, so that `mnq --help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb."""
        if cmd_name not in VERBS:
            return None
        command: Any = import_module(f"mnq.cli.{cmd_name}").main
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Mixed non-linear quantization: integer-only vision transformers in ONNX."""
