"""The house rules that a reader relies on: who imports whom, how long a file is, what is installed."""

import ast
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "recorder", "analysis", "dashboards")
ALLOWED = {
    "schemas": {"schemas"},
    "recorder": {"schemas", "recorder"},
    "analysis": {"schemas", "analysis"},
    "dashboards": {"schemas", "analysis", "dashboards"},
}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Names of the attlas packages that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("attlas.")}
        found |= {name for name in names if name.split(".")[0] in PACKAGES}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert imported(path) <= ALLOWED[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


DEMO = ("recorder/demo/", "schemas/cli/demo.py", "schemas/simulate.py")
"""What makes or describes the demo's stores; everything else asks annotations for their roles."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_the_demo_stay_in_the_demo(path):
    place = path.relative_to(ROOT).as_posix()
    assert place.startswith(DEMO) or "garment" not in path.read_text().lower()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("attlas.schemas", ("torch", "xarray", "diffusers", "panel")),
        ("attlas.schemas.cli", ("torch", "xarray", "diffusers", "panel")),
        ("attlas.recorder", ("torch", "diffusers", "xarray", "panel")),
        ("attlas.analysis", ("diffusers", "transformers", "panel")),
        ("attlas.recorder.demo", ("torch", "diffusers", "xarray")),
    ],
)
def test_importing_is_light(module, heavy):
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.strip() == "[]"


def test_public_names_exist():
    for package in PACKAGES:
        module = __import__(f"attlas.{package}", fromlist=["__all__"])
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_no_module_is_a_bag():
    names = {info.name for package in PACKAGES for info in pkgutil.walk_packages([str(ROOT / package)])}
    assert not names & {"utils", "util", "helpers", "helper", "manager", "misc", "common"}


def test_wheel_holds_every_module_and_the_weights(tmp_path):
    # From a copy: setuptools would pack whatever an earlier build left in build/lib.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"attlas/{path.relative_to(ROOT)}" for path in FILES}
    for world in ("shapes", "tryon"):
        for part in ("pipeline", "refined"):
            folder = ROOT / "recorder" / "demo" / world / part
            wanted |= {f"attlas/{path.relative_to(ROOT)}" for path in folder.rglob("*") if path.is_file()}
    assert wanted <= inside, sorted(wanted - inside)
