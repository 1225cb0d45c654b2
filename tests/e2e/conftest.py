"""One small demo for all end-to-end tests, made by the command that a user types."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SAMPLES = 4


@dataclass(frozen=True)
class Demo:
    folder: Path
    output: str
    samples: int = SAMPLES

    @property
    def stores(self) -> list[Path]:
        return [self.folder / "shapes.zarr", self.folder / "tryon.zarr"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Demo:
    folder = tmp_path_factory.mktemp("demo") / "out"
    command = [str(Path(sys.executable).parent / "attlas"), "demo", "--out", str(folder), "--samples", str(SAMPLES)]
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return Demo(folder, done.stdout)
