"""Makes the tiny pipelines of the recorder's tests importable here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "recorder"))
