"""Makes the tiny pipelines of this folder importable, and one of them a fixture."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def pipe():
    from tiny_pipelines import make_pipe

    return make_pipe()


@pytest.fixture(autouse=True)
def _own_attention_backend():
    """A backend that a test chooses for one model is diffusers' choice for all."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before = registry._active_backend
    yield
    registry.set_active_backend(before)
