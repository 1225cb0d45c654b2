"""What an attlas store looks like: dimensions, variables, layout, codecs, life cycle, validation.

Needs numpy and zarr only. Everything public is named here.
"""

from attlas.schemas.annotations import ROLES, Annotation
from attlas.schemas.create import create_store
from attlas.schemas.layout import ArrayLayout, Leaf, array_layout, leaf_names
from attlas.schemas.manifest import Manifest
from attlas.schemas.precision import round_factors, round_values
from attlas.schemas.repair import repair_store
from attlas.schemas.simulate import simulate_store
from attlas.schemas.store import Store, open_store
from attlas.schemas.validate import validate_store
from attlas.schemas.variables import (
    DETAILS,
    DIRECTIONS,
    ENCODINGS,
    KINDS,
    LEAF_VARIABLES,
    PRECISIONS,
    ROOT_VARIABLES,
    SCHEMA_VERSION,
    SEGMENTS,
    Variable,
)

__all__ = [
    "DETAILS",
    "DIRECTIONS",
    "ENCODINGS",
    "KINDS",
    "LEAF_VARIABLES",
    "PRECISIONS",
    "ROLES",
    "ROOT_VARIABLES",
    "SCHEMA_VERSION",
    "SEGMENTS",
    "Annotation",
    "ArrayLayout",
    "Leaf",
    "Manifest",
    "Store",
    "Variable",
    "array_layout",
    "create_store",
    "leaf_names",
    "open_store",
    "repair_store",
    "round_factors",
    "round_values",
    "simulate_store",
    "validate_store",
]
