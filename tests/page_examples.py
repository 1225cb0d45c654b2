"""Examples of a page of the documentation: run them, compare them with the page, or write them into it.

``python tests/page_examples.py docs/recording.md`` writes what the commands print now.
"""

import re
import shlex
import sys
import tempfile
from pathlib import Path

from same_process import attlas

CONSOLE = re.compile(r"```console\n\$ (.*?)\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def make_models(folder):
    """Save the tiny models of the examples as ``sdxl`` and ``flux`` in `folder`."""
    sys.path.insert(0, str(Path(__file__).parent / "recorder"))
    from matrix.joint_parts import flux
    from matrix.unet_parts import sdxl

    sdxl().save_pretrained(folder / "sdxl")
    flux().save_pretrained(folder / "flux")


def commands(page):
    """Pairs of a command and what the page says it prints."""
    return CONSOLE.findall(page)


def program(page):
    """All Python of the page, as one program."""
    return "\n".join(PYTHON.findall(page))


def printed(command, folder):
    """What a command prints, in `folder`."""
    name, *arguments = shlex.split(command)
    assert name == "attlas", f"{command}: only commands of attlas are run"
    return attlas(arguments, folder)


def measured(text):
    """The text less what differs from machine to machine: sizes after compression, times, and the room they take."""
    text = re.sub(r"[\d.,]+ (B|KB|MB|GB|s|min|calls/s)\b", r"# \1", text)
    text = re.sub(r"; the first call takes .*", "", text)
    return [" ".join(re.sub(r"# [KMG]?B", "#", line).split()) for line in text.splitlines()]


def rewrite(path):
    """Put into the page at `path` what its commands print now."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder)
        page = path.read_text()
        made = CONSOLE.sub(lambda found: f"```console\n$ {found[1]}\n{printed(found[1], folder)}```", page)
        path.write_text(made)


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
