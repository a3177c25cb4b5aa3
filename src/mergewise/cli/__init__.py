"""The command line: one small module per command, no logic of its own."""

from mergewise.cli.app import main

__all__ = ["main"]
