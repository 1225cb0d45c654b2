"""The papers' maps by their names, each a choice of arguments of `aggregate`.

I2AM: `ulam`, `tlam`, `hlam`, `llam` (eq. 7, 10-13), `sram` and `reverse_sram` (eq. 14). DAAM: `daam`, `hard`. All but
`hard` return raw, lazy sums; `transform` (I2AM eq. 5), `normalize`, `threshold` and `overlay` make pictures of them.
"""

from attlas.analysis.aggregation.aggregate import aggregate
from attlas.analysis.aggregation.resample import resample
from attlas.analysis.aggregation.together import together
from attlas.analysis.normalise import normalize, threshold
from attlas.analysis.output.overlay import overlay
from attlas.analysis.papers.daam import DAAM_VARIANTS, daam, hard, released_layers
from attlas.analysis.papers.i2am import I2AM_VARIANTS, transform
from attlas.analysis.papers.levels import hlam, llam, tlam, ulam
from attlas.analysis.papers.patches import reverse_sram, sram

__all__ = [
    "DAAM_VARIANTS",
    "I2AM_VARIANTS",
    "aggregate",
    "daam",
    "hard",
    "hlam",
    "llam",
    "normalize",
    "overlay",
    "released_layers",
    "resample",
    "reverse_sram",
    "sram",
    "threshold",
    "tlam",
    "together",
    "transform",
    "ulam",
]
