"""Tables and figures of the papers, each computed from stores by one function and one command.

``recipes.run("i2am-fig16", [trace])`` gives tables, figures and notes; `attlas recipe run` writes them. The list is
known without importing a recipe, and drawing is imported when something is drawn.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from attlas.analysis.recipes.recipe import Need, Recipe, RecipeResult, Table, recipe
from attlas.analysis.trace import Trace
from attlas.schemas.errors import unknown_name

__all__ = ["RECIPES", "Need", "Recipe", "RecipeResult", "Table", "every", "find", "recipe", "run"]

_HERE = "attlas.analysis.recipes"

RECIPES: dict[str, str] = {
    "i2am-fig2": f"{_HERE}.i2am_layers:fig2",
    "i2am-fig6": f"{_HERE}.i2am_flow:fig6",
    "i2am-fig7": f"{_HERE}.i2am_flow:fig7",
    "i2am-fig8": f"{_HERE}.i2am_flow:fig8",
    "i2am-fig9": f"{_HERE}.i2am_layers:fig9",
    "i2am-fig11": f"{_HERE}.i2am_guidance:fig11",
    "i2am-fig16": f"{_HERE}.i2am_uniform:fig16",
    "i2am-fig20": f"{_HERE}.i2am_axes:fig20",
    "i2am-table1": f"{_HERE}.i2am_detection:table1",
    "i2am-table2": f"{_HERE}.debugging:table2",
    "i2am-table3": f"{_HERE}.i2am_threshold:table3",
    "i2am-table4": f"{_HERE}.i2am_lambda:table4",
    "daam-fig1": f"{_HERE}.daam:fig1",
    "daam-fig4": f"{_HERE}.daam_pairs:fig4",
    "daam-fig5": f"{_HERE}.daam_speech:fig5",
    "daam-table1": f"{_HERE}.daam_table:table1",
    "selective-curve": f"{_HERE}.selective:selective_curve",
    "selective-misinterpretation": f"{_HERE}.misread:selective_misinterpretation",
}
"""Where each recipe is, ``module:name``, in the order of the papers."""


def find(name: str) -> Recipe:
    """Recipe of this name; its module is imported now.

    Raises
    ------
    UnknownNameError
        If there is none, with the close names.

    Examples
    --------
    >>> find("i2am-fig16").paper
    'I2AM Fig. 16'
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    module, _, attribute = RECIPES[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, Recipe):
        raise TypeError(f"{RECIPES[name]} is {type(found).__name__}; a function under @recipe is needed")
    return found


def every() -> Iterator[Recipe]:
    """All recipes in the order of `RECIPES`."""
    return (find(name) for name in RECIPES)


def run(name: str, traces: Sequence[Trace], *, progress: bool = True, **options: Any) -> RecipeResult:
    """Run the recipe `name` on `traces`, which stand in the order of its ``stores``, then its ``optional`` ones.

    Parameters
    ----------
    name
        One of `RECIPES`.
    traces
        From `open_trace`.
    progress
        Whether to show a progress bar.
    **options
        Of the recipe's function; ``find(name).options`` lists them with their defaults.

    Returns
    -------
    `RecipeResult`: printing gives the tables, notes and settings; ``save(folder)`` writes all of it.

    Raises
    ------
    UnknownNameError
        If there is no such recipe or option.
    InvalidValueError
        If there are too few or too many traces, or one shows no run.
    NotRecordedError
        If a store lacks what the recipe needs, with all that it lacks.
    """
    return find(name)(traces, progress=progress, **options)
