"""Commands of the analysis, a file each; `attlas.schemas.cli` finds them by name."""
