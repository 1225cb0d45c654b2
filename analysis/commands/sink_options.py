"""Options of commands that can leave sinks out of their maps."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attlas.schemas.errors import InvalidValueError

if TYPE_CHECKING:
    from attlas.analysis.sink_rule import Sinks

__all__ = ["sink_options", "sinks_given"]

F = TypeVar("F", bound=Callable[..., Any])
NAMES = {"sink_rule": "rule", "sink_times": "times", "sink_by": "by", "sink_mass": "mass"}


def sink_options(function: F) -> F:
    """Add the options that `sinks_given` reads."""
    for option in reversed(
        (
            click.option("--leave-out-sinks", is_flag=True, help="Leave out keys that draw attention for themselves."),
            click.option(
                "--sink-rule",
                type=click.Choice(("importance", "special")),
                help="Which: much attention, or no word and no patch.  [default: importance]",
            ),
            click.option("--sink-times", type=float, help="How many times a random key's attention.  [default: 5]"),
            click.option("--sink-by", type=click.Choice(("head", "layer")), help="Sinks of what.  [default: head]"),
            click.option(
                "--sink-mass",
                type=click.Choice(("zero", "rescale", "renormalise")),
                help="What becomes of their attention.  [default: zero]",
            ),
        )
    ):
        function = option(function)
    return function


def sinks_given(given: dict[str, Any]) -> "Sinks | None":
    """Take the options out of `given`; the rule, or None where sinks are kept.

    Raises
    ------
    InvalidValueError
        If an option says how, and ``--leave-out-sinks`` is not given.
    """
    from attlas.analysis.sink_rule import Sinks

    wanted = given.pop("leave_out_sinks")
    chosen = {name: given.pop(option) for option, name in NAMES.items()}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if wanted:
        return Sinks(**chosen)
    for option, name in NAMES.items():
        if name in chosen:
            raise InvalidValueError(f"--{option.replace('_', '-')} says how sinks are left out; add --leave-out-sinks")
    return None
