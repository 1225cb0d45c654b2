"""Rows of pipelines whose cross-attention looks at pictures."""

from functools import partial

from matrix import reference_parts
from matrix.pieces import photo
from matrix.reference_parts import BASE_TOKENS, PLUS_TOKENS, base, plus
from matrix.rows import Row
from matrix.unets import CAT, PROMPT, SQUARE, grids

from attlas.schemas.errors import ObservationError

SIZE = {"height": 16, "width": 16}


def adapted(*tokens, sizes=SQUARE):
    """Leaves of text and of one adapter's tokens."""
    return grids(["text"], *sizes) | {f"image/{y}x{x}": f"{count} reference" for y, x in sizes for count in tokens}


ROWS = [
    Row(
        "IP-Adapter",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, base),
        {"prompt": PROMPT, "ip_adapter_image": photo(24, 16), **SIZE},
        leaves=adapted(BASE_TOKENS),
        words=CAT,
        notes="4 tokens of the picture, which are no patches; text and picture are kinds of their own",
    ),
    Row(
        "IP-Adapter Plus",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, plus),
        {"prompt": PROMPT, "ip_adapter_image": photo(24, 16), "height": 16, "width": 32},
        leaves=adapted(PLUS_TOKENS, sizes=((8, 16), (4, 8))),
        words=CAT,
        notes="tokens of a resampler (16), which are no patches",
    ),
    Row(
        "Two IP-Adapters",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, base, base),
        {"prompt": PROMPT, "ip_adapter_image": [photo(24, 16), photo(16, 16, 1)], **SIZE},
        leaves=adapted(BASE_TOKENS),
        words=CAT,
        notes="layers `....processor.to_k_ip.0` and `.1`",
    ),
    Row(
        "IP-Adapter and IP-Adapter Plus",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, base, plus),
        {"prompt": PROMPT, "ip_adapter_image": [photo(24, 16), photo(16, 16, 1)], **SIZE},
        {"kinds": "image"},
        leaves={f"image/{size}-k{count}": f"{count} reference" for size in ("8x8", "4x4") for count in (4, 5)},
        notes="adapters with another number of tokens make leaves of their own",
    ),
    Row(
        "IP-Adapter, two pictures",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, base),
        {"prompt": PROMPT, "ip_adapter_image": [[photo(24, 16), photo(16, 16, 1)]], **SIZE},
        {"kinds": "image"},
        leaves={f"image/{size}": "4 reference 0, 4 reference 1" for size in ("8x8", "4x4")},
        notes="`key_picture` says which picture a token is of; with several pictures none of them is stored",
    ),
    Row(
        "IP-Adapter in one block",
        "StableDiffusionPipeline",
        reference_parts.in_one_block,
        {"prompt": PROMPT, "ip_adapter_image": photo(24, 16), **SIZE},
        leaves=grids(["text"], *SQUARE) | {"image/4x4": "4 reference"},
        words=CAT,
        notes="layers whose scale is 0 compute nothing, and are left out",
    ),
    Row(
        "IP-Adapter, masked",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, base),
        {
            "prompt": PROMPT,
            "ip_adapter_image": photo(24, 16),
            "cross_attention_kwargs": reference_parts.masks(1, 16, 16),
            **SIZE,
        },
        leaves=adapted(BASE_TOKENS),
        words=CAT,
        notes="its mask acts on what comes out of the attention, not on the attention",
    ),
    Row(
        "IP-Adapter, several masked pictures: text",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, base),
        {
            "prompt": PROMPT,
            "ip_adapter_image": [[photo(24, 16), photo(16, 16, 1)]],
            "cross_attention_kwargs": reference_parts.masks(2, 16, 16),
            **SIZE,
        },
        {"kinds": "text"},
        leaves=grids(["text"], *SQUARE),
        words=CAT,
        notes='`Capture(kinds="text")`',
    ),
    Row(
        "IP-Adapter, several masked pictures",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, base),
        {
            "prompt": PROMPT,
            "ip_adapter_image": [[photo(24, 16), photo(16, 16, 1)]],
            "cross_attention_kwargs": reference_parts.masks(2, 16, 16),
            **SIZE,
        },
        reason='each picture makes a kernel call, how many is not known before the run; `kinds="text"` can be recorded',
        error=(ObservationError, "made 3 attention calls in one pass; 2 is known of it"),
    ),
    Row(
        "IP-Adapter, embeddings given",
        "StableDiffusionPipeline",
        partial(reference_parts.ip_adapter, base),
        {"prompt": PROMPT, "ip_adapter_image_embeds": reference_parts.embeddings(), **SIZE},
        {"kinds": "image", "encoding": "factors"},
        leaves={name: keys for name, keys in adapted(BASE_TOKENS).items() if name.startswith("image")},
        notes="no reference picture is stored",
    ),
    Row(
        "Paint by Example",
        "PaintByExamplePipeline",
        reference_parts.paint_by_example,
        {"image": photo(16, 16), "mask_image": photo(16, 16, 1), "example_image": photo(20, 20, 2), **SIZE},
        leaves={"image/8x8": "1 cls", "image/4x4": "1 cls"},
        inert=True,
        notes="one key: the recorder warns that its softmax is 1 whatever Q and K are",
    ),
    Row(
        "Try-on, every patch a key",
        "TryOnPipeline",
        reference_parts.try_on,
        reference_parts.try_on_request(),
        leaves={"image/8x8": "1 cls, 16 reference", "image/4x4": "1 cls, 16 reference"},
        notes="the topology of `demo:tryon`: patches of the garment have rows and columns",
    ),
]
