"""The registry: every array of a store, with its dims, dtype, unit and meaning.

Writing, validation and the documentation read this table; nothing else defines a stored array.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "DETAILS",
    "DIRECTIONS",
    "ENCODINGS",
    "KINDS",
    "LEAF_VARIABLES",
    "PRECISIONS",
    "ROOT_VARIABLES",
    "SCHEMA_VERSION",
    "SEGMENTS",
    "STATISTIC_VARIABLES",
    "VOCABULARY_VARIABLES",
    "Variable",
    "markdown_table",
]

SCHEMA_VERSION = 2

KINDS = ("text", "image", "self", "joint")
DIRECTIONS = ("g2r", "r2g")
DETAILS = ("summary", "full")
ENCODINGS = ("auto", "dense", "factors", "both")
PRECISIONS = ("exact", "balanced", "small")
SEGMENTS = (
    *("bos", "word", "eos", "pad", "template", "absent"),
    *("text", "generated", "reference", "self", "cls", "register"),
)
"""What a key is. Of a prompt: ``bos word eos pad``, ``template`` (words that the pipeline puts around the prompt) and
``absent`` (no key: the run has fewer tokens than the store has places). Of a sequence: ``text generated reference self
cls``, ``register`` (learned tokens beside them) and ``pad`` (what fills the picture's tokens up).
"""

Role = Literal["index", "coord", "data"]


@dataclass(frozen=True)
class Variable:
    """One stored array.

    ``group`` says what makes the array exist: ``always``, or the encoding or detail that writes it. A stored number
    times ``scale`` is the value; arrays with a scale other than 1 have it as their attribute ``scale_factor``.
    ``apart`` says that each guidance branch has shards of its own.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    meaning: str
    role: Role = "data"
    group: str = "always"
    scale: float = 1.0
    apart: bool = False

    @property
    def fill(self) -> float | int | str | bool:
        """Value of elements that nobody wrote."""
        if self.dtype.startswith("f"):
            return float("nan")
        fills: dict[str, int | str | bool] = {"str": "", "bool": False, "u1": 0}
        return fills.get(self.dtype, -1)


def _table(*variables: Variable) -> dict[str, Variable]:
    return {variable.name: variable for variable in variables}


_IMAGE = ("run", "image_y", "image_x", "rgb")
_VIDEO = ("run", "video_frame", "image_y", "image_x", "rgb")
_REFERENCE = ("run", "reference_y", "reference_x", "rgb")

ROOT_VARIABLES = _table(
    Variable("run", ("run",), "str", "", "label of a run, unique in the store", "index"),
    Variable("t", ("t",), "i4", "", "denoiser call, in order, from 0", "index"),
    Variable("branch", ("branch",), "str", "", "classifier-free guidance branch", "index"),
    Variable("step", ("run", "t"), "i4", "", "sampler step that the call belongs to, from 0 (noisiest)", "coord"),
    Variable("timestep", ("run", "t"), "f4", "", "the scheduler's timestep of the call", "coord"),
    Variable("sigma", ("run", "t"), "f4", "", "noise level over signal level; inf at zero signal", "coord"),
    Variable("complete", ("run",), "bool", "", "set last, after all of the run's data is stored"),
    Variable("seed", ("run",), "i8", "", "seed of the run's generator; -1 where the user gave a generator"),
    Variable("prompt", ("run",), "str", "", "prompt of the run; empty where the pipeline takes none"),
    Variable("request", ("run",), "str", "", "pipeline arguments as JSON; images and arrays by digest"),
    Variable(
        "holds", ("run",), "str", "", "JSON list of what the run has beside its attention: pictures and annotations"
    ),
    Variable("generated_image", _IMAGE, "u1", "", "generated image, RGB; the middle frame of a video", group="image"),
    Variable("generated_video", _VIDEO, "u1", "", "every frame of the generated video, RGB", group="video"),
    Variable("reference_image", _REFERENCE, "u1", "", "reference image, RGB", group="reference"),
)

_FULL = ("run", "branch", "t", "layer", "head", "query", "key")

LEAF_VARIABLES = _table(
    Variable("layer", ("layer",), "str", "", "full module path of the attention module", "index"),
    Variable("head", ("head",), "i4", "", "head of the attention module, from 0", "index"),
    Variable("query", ("query",), "i4", "", "query token, row-major over the query grid", "index"),
    Variable("key", ("key",), "i4", "", "key token", "index"),
    Variable("query_y", ("query",), "i4", "", "row of the query in its grid, from the top", "coord"),
    Variable("query_x", ("query",), "i4", "", "column of the query in its grid, from the left", "coord"),
    Variable(
        "query_frame",
        ("query",),
        "i4",
        "",
        "latent frame of the query, from 0",
        "coord",
        "query frames",
    ),
    Variable(
        "key_frame",
        ("key",),
        "i4",
        "",
        "latent frame of the key, from 0; -1 where the key is no patch",
        "coord",
        "key frames",
    ),
    Variable(
        "key_y",
        ("key",),
        "i4",
        "",
        "row of the key in its grid; -1 where the key is no patch",
        "coord",
        "patches",
    ),
    Variable(
        "key_x",
        ("key",),
        "i4",
        "",
        "column of the key in its grid; -1 where the key is no patch",
        "coord",
        "patches",
    ),
    Variable(
        "key_segment",
        ("key",),
        "str",
        "",
        "what the key is: text, generated, reference, self, cls, register or pad",
        "coord",
        "patches",
    ),
    Variable(
        "key_picture",
        ("key",),
        "i4",
        "",
        "which of the reference images the key is a patch of, from 0; -1 if none",
        "coord",
        "patches",
    ),
    Variable(
        "token",
        ("run", "branch", "key"),
        "str",
        "",
        "text of the token as the tokenizer spells it",
        "coord",
        "tokens",
    ),
    Variable(
        "token_segment",
        ("run", "branch", "key"),
        "str",
        "",
        "what the token is: bos, word, eos, pad, template or absent",
        "coord",
        "tokens",
    ),
    Variable(
        "token_start",
        ("run", "branch", "key"),
        "i4",
        "",
        "first character of the token in the prompt; -1 if none",
        "coord",
        "tokens",
    ),
    Variable(
        "token_end",
        ("run", "branch", "key"),
        "i4",
        "",
        "one past the last character of the token; -1 if none",
        "coord",
        "tokens",
    ),
    Variable(
        "token_chunk",
        ("run", "branch", "key"),
        "i4",
        "",
        "which text encoder, or which piece of a long prompt, the token belongs to, from 0; -1 if none",
        "coord",
        "tokens",
    ),
    Variable("computed", ("run", "branch", "t", "layer"), "bool", "", "whether the module computed in the call"),
    Variable("log_attention", _FULL, "f2", "nat", "ln of the softmax over keys", group="dense"),
    Variable(
        "logsumexp",
        ("run", "branch", "t", "layer", "head", "query"),
        "f4",
        "nat",
        "ln of the sum over all keys of exp(logit)",
        group="full",
    ),
    Variable(
        "query_vectors",
        ("run", "branch", "t", "layer", "head", "query", "channel"),
        "f2",
        "",
        "Q as the attention kernel saw it, scale folded in; a last channel of 1 where keys are masked",
        group="factors",
    ),
    Variable(
        "key_vectors",
        ("run", "branch", "t", "layer", "head", "key", "channel"),
        "f2",
        "",
        "K as the attention kernel saw it, its mask as a last channel; without t where it does not change with t",
        group="factors",
    ),
    Variable(
        "value_vectors",
        ("run", "branch", "t", "layer", "head", "key", "value_channel"),
        "f2",
        "",
        "V as the attention kernel saw it; without t where the keys do not change with t",
        group="values",
    ),
    Variable(
        "key_projection",
        ("layer", "feature", "head_channel"),
        "f2",
        "",
        "W_k of each layer: K of a token is its embedding times this, heads one after the other",
        group="projection",
    ),
    Variable(
        "output_projection",
        ("layer", "value_head_channel", "output_feature"),
        "f2",
        "",
        "W_o of each layer: what the module puts out is the heads' sums of V, one after the other, times this",
        group="output projection",
    ),
    Variable(
        "g2r",
        ("run", "branch", "t", "layer", "head", "key"),
        "f4",
        "1",
        "mean over queries of the softmax over keys",
        group="summary",
    ),
    Variable(
        "r2g",
        ("run", "branch", "t", "layer", "head", "query"),
        "f4",
        "1",
        "mean over keys of the softmax over queries",
        group="summary",
    ),
    Variable(
        "attention_mean",
        ("run", "branch", "layer", "head", "query", "key"),
        "f2",
        "1",
        "mean over t of the softmax over keys",
        group="mean",
    ),
    Variable(
        "attention_mean_r2g",
        ("run", "branch", "layer", "head", "query", "key"),
        "f2",
        "1",
        "mean over t of the softmax over queries; stored times a power of two near the number of queries",
        group="mean",
    ),
)


VOCABULARY_VARIABLES = _table(
    Variable("word", ("word",), "str", "", "word of the vocabulary", "index"),
    Variable("word_token", ("word", "word_place"), "str", "", "token of the word, as the tokenizer spells it", "coord"),
    Variable("word_segment", ("word", "word_place"), "str", "", "what the token is: bos, word, eos or absent", "coord"),
    Variable(
        "word_embedding",
        ("word", "word_place", "feature"),
        "f4",
        "",
        "output of the text encoder for the word alone; NaN where it has no token",
    ),
)

STATISTIC_VARIABLES = _table(
    Variable(
        "value", ("run", "..."), "f8", "", "what the statistic found; NaN where that is nothing, or was not computed"
    ),
    Variable("DIM", ("DIM",), "...", "", "labels of the dim DIM, where every run has the same", "index"),
    Variable("DIM_label", ("run", "DIM"), "...", "", "labels of the dim DIM, where runs have their own", "coord"),
    Variable(
        "DIM_count",
        ("run",),
        "i4",
        "",
        "how many places of DIM the run fills, where runs have their own; -1 where nothing was computed",
        "coord",
    ),
    Variable("LABEL", ("run", "..."), "...", "", "further labels; without run where every run has the same", "coord"),
    Variable(
        "fingerprint",
        ("run",),
        "str",
        "",
        "digest of the run that the numbers are of, and a checksum of them; empty where nothing was computed",
    ),
)


def markdown_table(variables: dict[str, Variable]) -> str:
    """Table of `variables` for the documentation, one row each."""
    rows = [
        f"| `{v.name}` | {' '.join(v.dims)} | {v.dtype} | {v.unit or '-'} | {v.meaning} |" for v in variables.values()
    ]
    return "\n".join(["| variable | dims | dtype | unit | meaning |", "|---|---|---|---|---|", *rows])
