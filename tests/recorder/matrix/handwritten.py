"""Rows of denoisers outside diffusers, whose attention is written out by hand."""

import ldm_models
from ldm_models import own_resolution, patches, picture
from matrix.rows import Row

from attlas.recorder import Family, register_family

FAMILIES = (
    Family("example", ("ExamplePipeline",), "image", batch=("example_image",), reference="example_image"),
    Family(
        "patches",
        ("PatchPipeline",),
        "image",
        batch=("example_image",),
        reference="example_image",
        key_grid=patches,
    ),
    Family(
        "warp",
        ("WarpPipeline",),
        "image",
        batch=("example_image",),
        reference="example_image",
        passes=lambda pipe, given: ("cond", "uncond") if given.get("guidance_scale", 1) > 1 else ("cond",),
        kinds=(("warp_blocks.*attn2", "image"),),
        key_grid=own_resolution,
        keys_vary=True,
    ),
    Family(
        "restoration",
        ("RestorePipeline",),
        "text",
        batch=("prompt",),
        reference="image",
        kinds=(("image_attentions.*attn2", "image"),),
        key_grid=patches,
    ),
)
for family in FAMILIES:
    register_family(family)

FINE, COARSE = "6x8", "3x4"
"""Grids of a picture of 48x64 pixels."""


def leaves(kinds, keys):
    """Leaves at both grids; keys of self-attention are the queries."""
    found = {f"{kind}/{grid}": keys for kind in kinds for grid in (FINE, COARSE)}
    return found | {f"self/{FINE}": "48 self", f"self/{COARSE}": "12 self"}


ROWS = [
    Row(
        "one class token, by hand",
        "ExamplePipeline",
        ldm_models.example_pipe,
        {"example_image": picture()},
        {"kinds": ("image", "self")},
        leaves=leaves(("image",), "1 cls"),
        inert=True,
        notes="einsum and softmax, as in Paint by Example's own code; seen by its projections",
    ),
    Row(
        "all patches of a reference, by hand",
        "PatchPipeline",
        ldm_models.patch_pipe,
        {"example_image": [picture(), picture(value=90)]},
        {"kinds": ("image", "self"), "encoding": "factors"},
        leaves=leaves(("image",), "1 cls, 12 reference"),
        notes="einsum and softmax, as in DCI-VTON's own code; Family(key_grid=...) says where the patches are",
    ),
    Row(
        "features of a second network, by hand",
        "WarpPipeline",
        ldm_models.warp_pipe,
        {"example_image": picture(), "guidance_scale": 3.0},
        {"kinds": ("image", "self"), "layers": ("warp_blocks.*",)},
        branches=("cond", "uncond"),
        passes=True,
        leaves={"image/6x8": "48 reference", "image/3x4": "12 reference", "self/6x8": "48 self", "self/3x4": "12 self"},
        notes="einsum and softmax, as in StableVITON's own code; keys at the queries' resolution, new in every call",
    ),
    Row(
        "an image attention beside each text attention, by hand",
        "RestorePipeline",
        ldm_models.restore_pipe,
        {"prompt": "a red cat", "image": picture()},
        {"kinds": ("text", "image", "self")},
        leaves=leaves(("image",), "12 reference") | leaves(("text",), "1 bos, 3 word, 1 eos, 7 pad"),
        words={"cat": (3,)},
        notes="einsum and softmax, as in SeeSR's and PASD's own code; more heads at coarser grids",
    ),
]
