"""Commands and programs of pages run here: a process of their own would import torch and diffusers anew each time."""

import contextlib
import io
import os
import warnings
from pathlib import Path


@contextlib.contextmanager
def working_in(folder):
    """The working directory is `folder`; warnings are shown, not raised, as in a user's shell."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.simplefilter("ignore", DeprecationWarning)  # as Python itself does for libraries
            yield
    finally:
        os.chdir(before)


def attlas(arguments, folder):
    """What ``attlas ARGUMENTS`` prints, in `folder`; its error is raised."""
    from attlas.schemas.cli.group import attlas as group

    printed = io.StringIO()
    with working_in(folder), contextlib.redirect_stdout(printed):
        group.main([str(argument) for argument in arguments], prog_name="attlas", standalone_mode=False)
    return printed.getvalue()


def python(program, folder):
    """What the program prints, in `folder`; its error is raised."""
    printed = io.StringIO()
    with working_in(folder), contextlib.redirect_stdout(printed):
        exec(compile(program, "<program of a page>", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own pages
    return printed.getvalue()
