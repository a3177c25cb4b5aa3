"""``mergewise zoo``."""

import sys

import typer

from mergewise.cli.output import JsonOption, print_json

__all__ = ["zoo_app"]

zoo_app = typer.Typer(
    name="zoo",
    help="The embedded default: a real base model, real tasks, and experts trained on them.",
    no_args_is_help=True,
)


@zoo_app.command("list")
def list_zoo(json: JsonOption = False) -> None:
    """Say what the zoo holds, where it comes from, and what is cached here; downloads nothing."""


@zoo_app.command("build")
def build(json: JsonOption = False) -> None:
    """Fetch the base model and the tasks, and train the experts that are not cached yet."""
