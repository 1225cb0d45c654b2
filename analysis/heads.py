"""Which heads to listen to: scored, ranked and chosen; what comes out goes into any map as ``heads=``.

Scores come from masks (`score_heads`), from the concepts that heads answer (`relevance`, `contrast`), or from the maps
alone (`agreement`). `select` turns them into weights, `curve` says what a choice is worth, and `misinterpretation` what
a word's heads really answer. Choose on one part of the runs and score on another: the best of many heads is optimistic
on the runs that chose it.
"""

from attlas.analysis.head_choice.choice import WEIGHTS, agreement, random_rankings, select
from attlas.analysis.head_choice.curve import curve, intervals
from attlas.analysis.head_choice.misinterpretation import misinterpretation
from attlas.analysis.head_choice.relevance import answers, contrast, relevance, vectors
from attlas.analysis.head_choice.single_heads import (
    Head,
    greedy,
    head_ious,
    head_maps,
    noun_masks,
    noun_samples,
    rank,
    score_heads,
    set_iou,
    top,
)

__all__ = [
    "WEIGHTS",
    "Head",
    "agreement",
    "answers",
    "contrast",
    "curve",
    "greedy",
    "head_ious",
    "head_maps",
    "intervals",
    "misinterpretation",
    "noun_masks",
    "noun_samples",
    "random_rankings",
    "rank",
    "relevance",
    "score_heads",
    "select",
    "set_iou",
    "top",
    "vectors",
]
