"""The prompt of a run as running text, each of its words a button."""

import re
from collections.abc import Callable
from typing import Any

from attlas.analysis import Trace
from attlas.analysis.words import prompts
from attlas.dashboards.offering import WORD
from attlas.dashboards.state import BenchState
from attlas.dashboards.views.choices import WordLine

__all__ = ["PromptLine", "word_items"]


class PromptLine:
    """Prompt of the chosen branch; hidden where the run has none."""

    def __init__(self, choose: Callable[[str], None]) -> None:
        self._choose = choose
        self.line = WordLine(css_classes=["attlas-words"], sizing_mode="stretch_width", margin=(0, 0, 8, 0))
        self.line.param.watch(lambda event: self._picked(event.new), "value")

    def show(self, trace: Trace, state: BenchState) -> None:
        """Show the prompt of the state's run and branch, and mark the word that is asked."""
        text = prompts(trace, state.branch)[0]
        words = state.offered.words.get(state.branch, ())
        items = word_items(text, words)
        if items != self.line.items:
            self.line.items = items
        self.line.visible = bool(text)
        self.line.value = state.word if state.mode == "word" else ""

    def _picked(self, word: str) -> None:
        if word:
            self._choose(word)


def word_items(prompt: str, words: tuple[str, ...]) -> list[dict[str, Any]]:
    """Cut a prompt into its words, which can be chosen, and what stands between them.

    Examples
    --------
    >>> [(item["id"], item["text"]) for item in word_items("A <b>, a disc", ("a", "b", "disc"))]
    [('a', 'A'), (None, ' <'), ('b', 'b'), (None, '>, '), ('a', 'a'), (None, ' '), ('disc', 'disc')]
    """
    items: list[dict[str, Any]] = []
    end = 0
    for match in re.finditer(WORD, prompt):
        if match.group().lower() not in words:
            continue
        if match.start() > end:
            items.append({"id": None, "text": prompt[end : match.start()]})
        items.append({"id": match.group().lower(), "text": match.group()})
        end = match.end()
    if end < len(prompt):
        items.append({"id": None, "text": prompt[end:]})
    return items
