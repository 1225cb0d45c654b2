"""Captures say at once what is wrong with them."""

import subprocess
import sys

import pytest

from attlas.recorder import Capture
from attlas.schemas.errors import CaptureError, InvalidValueError, UnknownNameError


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"kinds": ("txt",)}, UnknownNameError, "unknown kind 'txt'; did you mean 'text'"),
        ({"detail": "fll"}, UnknownNameError, "unknown detail 'fll'; did you mean 'full'"),
        ({"encoding": "dence"}, UnknownNameError, "did you mean 'dense'"),
        ({"precision": "exakt"}, UnknownNameError, "did you mean 'exact'"),
        ({"kinds": ()}, InvalidValueError, "kinds is empty"),
        ({"layers": [3]}, InvalidValueError, "layers has 3; names are text"),
        ({"steps": 3}, InvalidValueError, "a list of whole numbers is needed"),
        ({"steps": [-1]}, InvalidValueError, "steps has -1"),
        ({"heads": [1, 1]}, InvalidValueError, "heads names a number twice"),
        ({"heads": [1.5]}, InvalidValueError, "heads has 1.5"),
    ],
)
def test_what_is_wrong_is_said(settings, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(")):
        Capture(**settings)


def test_calls():
    assert Capture().calls(3) == (0, 1, 2)
    assert Capture(steps=[2, 0]).calls(3) == (0, 2)
    assert Capture(steps=range(1, 3)).calls(3) == (1, 2)
    assert Capture(steps=slice(-2, None)).calls(5) == (3, 4)
    with pytest.raises(CaptureError, match="has call 3; the run has 3 denoiser calls, 0 to 2"):
        Capture(steps=[3]).calls(3)
    with pytest.raises(CaptureError, match="selects none"):
        Capture(steps=slice(9, None)).calls(3)


def test_json_is_plain_and_the_same_for_the_same_capture():
    one, other = Capture(kinds=["text"], steps=range(2)), Capture(kinds="text", steps=[1, 0])
    assert one == other
    assert one.to_json() == other.to_json()
    assert Capture(steps=slice(1, None, 2)).to_json()["steps"] == {"start": 1, "stop": None, "step": 2}


def test_the_package_is_light_until_a_name_is_used():
    code = (
        "import sys, attlas.recorder as r; assert 'torch' not in sys.modules; r.Capture();"
        "assert 'torch' not in sys.modules; assert 'sites' in dir(r); print('light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "light"


def test_an_unknown_public_name():
    import attlas.recorder

    with pytest.raises(AttributeError, match="has no attribute 'Recorde'"):
        _ = attlas.recorder.Recorde
