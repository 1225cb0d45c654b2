"""The `attlas` command: one lazy group, whose sub-commands live with the code that they run."""

from attlas.schemas.cli.group import main

__all__ = ["main"]
