"""Makes the tiny pipelines of this folder importable, and one of them a fixture."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def pipe():
    from tiny_pipelines import make_pipe

    return make_pipe()
