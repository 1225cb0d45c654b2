"""The manifest: what made a store. One store is one experiment, so two manifests must agree to share one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from attlas.schemas.errors import StoreInvalidError

__all__ = ["Manifest"]


@dataclass(frozen=True)
class Manifest:
    """Model, pipeline, scheduler, capture settings and library versions of a store.

    Values are plain JSON. ``model_digest`` identifies the weights; ``capture`` holds the settings of the
    recorder (kinds, layers, steps, heads, branches, detail, encoding, precision).
    """

    model: str
    model_digest: str
    pipeline: str
    scheduler: dict[str, Any] = field(default_factory=dict)
    capture: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for the root group's attributes."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str) -> "Manifest":
        """Read the manifest of the store `where`; unknown, missing or wrongly typed keys are all named at once."""
        kinds: dict[str, type] = dict.fromkeys(("model", "model_digest", "pipeline"), str)
        kinds |= dict.fromkeys(("scheduler", "capture", "versions"), dict)
        names = {f.name for f in fields(cls)}
        problems = [f"manifest: unknown key {name!r}" for name in values if name not in names]
        problems += [
            f"manifest: {name!r} is {type(values.get(name)).__name__}; {kind.__name__} is needed"
            for name, kind in kinds.items()
            if not isinstance(values.get(name), kind)
        ]
        if problems:
            raise StoreInvalidError(where, problems)
        return cls(**values)

    def differences(self, other: "Manifest") -> list[str]:
        """Say, one line each, where `other` cannot be recorded into the same store.

        Library versions may differ: the same model recorded after an upgrade is the same experiment.
        """
        lines = []
        for name in ("model_digest", "pipeline", "scheduler", "capture"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                keys = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
                lines += [f"{name}.{k}: store has {mine.get(k)!r}, got {theirs.get(k)!r}" for k in keys]
            elif mine != theirs:
                lines.append(f"{name}: store has {mine!r}, got {theirs!r}")
        return lines
