"""The lazy command group: a sub-command's module is imported only when that sub-command runs."""

import importlib
import sys

import click

from attlas.schemas.errors import AttlasError

__all__ = ["COMMANDS", "attlas", "main"]

COMMANDS = {
    "demo": ("attlas.schemas.cli.demo:demo", "Record, score and show two small trained models; start here."),
    "demo-refine": ("attlas.schemas.cli.refine:refine", "Fine-tune a demo model with losses on its attention."),
    "sites": ("attlas.recorder.commands:sites", "List what can be recorded in a pipeline."),
    "plan": ("attlas.recorder.commands:plan", "Say how large a recording becomes, and write nothing."),
    "record": ("attlas.recorder.commands:record", "Run a pipeline and record its attention into a store."),
    "info": ("attlas.analysis.commands.contents:info", "Say what a store holds."),
    "validate": ("attlas.schemas.cli.validate:validate", "List every problem of a store."),
    "repair": ("attlas.schemas.cli.repair:repair", "Make a damaged store sound, and say what was done."),
    "map": ("attlas.analysis.commands.maps:map_", "Compute one map of one run as a picture or NetCDF."),
    "sinks": ("attlas.analysis.commands.sinks:sinks", "Say which keys draw attention whatever they show."),
    "score": ("attlas.analysis.commands.scores:score", "Score the maps of a store against its annotations."),
    "recipe": ("attlas.analysis.commands.recipe:recipe", "Make the tables and figures of the papers from stores."),
    "survey": ("attlas.analysis.commands.survey:survey", "Statistics over all runs of stores, with intervals."),
    "report": ("attlas.dashboards.commands:report", "Write a self-contained HTML report of stores."),
    "dashboard": ("attlas.dashboards.commands:dashboard", "Ask the pictures questions with the mouse."),
}
"""Name, place and one-line help of every sub-command; the help is here so that listing imports nothing."""

EXTRAS = {
    "accelerate": "record",
    "diffusers": "record",
    "distributed": "cluster",
    "safetensors": "record",
    "transformers": "record",
    "bokeh": "dashboard",
    "holoviews": "dashboard",
    "panel": "dashboard",
}


class _LazyGroup(click.Group):
    """A group that knows its sub-commands by name and loads one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{name} is {type(command).__name__}; a click command is needed")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="attlas")
def attlas() -> None:
    """attlas: a flight recorder and an atlas for the attention of diffusion models.

    Record once, analyse many times. `attlas demo` shows the whole way in a few minutes.
    """


def main() -> None:
    """Run the command; an error of ours is one message on stderr and exit status 2, without a traceback."""
    try:
        attlas(prog_name="attlas")
    except AttlasError as err:
        click.echo(f"attlas: {err}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as err:
        extra = EXTRAS.get((err.name or "").split(".")[0])
        if extra is None:
            raise
        click.echo(f"attlas: {err.name} is not installed; pip install 'attlas[{extra}]'", err=True)
        sys.exit(2)
