"""What is installed: the right folders, nothing beside `swwae_zoo`, and a `swwae` that runs from anywhere."""

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import swwae_zoo

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(*command: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that no build folder appears in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "swwae_zoo", "cli", "recipes"):
        target = source / name
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
            continue
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = target / path.relative_to(ROOT / name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    built = run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source, cwd=out
    )
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = out.glob("*.whl")
    return path


def test_packages_are_the_folders() -> None:
    folders = {
        "swwae_zoo." + ".".join(init.parent.relative_to(ROOT).parts)
        for top in ("cli", "recipes")
        for init in (ROOT / top).rglob("__init__.py")
    }
    folders |= {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "swwae_zoo").rglob("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders


def test_every_module_lies_in_a_package() -> None:
    for top in ("swwae_zoo", "cli", "recipes"):
        for module in (ROOT / top).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} has no __init__.py"


def test_one_version() -> None:
    assert swwae_zoo.__version__ == metadata.version("swwae_zoo")


def test_wheel_holds_only_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    version = swwae_zoo.__version__
    assert {name.split("/")[0] for name in names} == {"swwae_zoo", f"swwae_zoo-{version}.dist-info"}
    for folder, inside in (("swwae_zoo", "swwae_zoo"), ("cli", "swwae_zoo/cli"), ("recipes", "swwae_zoo/recipes")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".toml", ".typed") or path.is_file() and path.parent.parent.name == "weights":
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names


def test_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    installed = run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    # Named like the script, so that the import is as light as the script's own.
    code = "import sys; sys.argv = ['swwae']; from swwae_zoo.cli.main import app; import swwae_zoo; print(swwae_zoo.__file__)"
    found = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert found.stdout.strip() == str(site / "swwae_zoo" / "__init__.py"), found.stderr
    script = (sys.executable, site / "bin" / "swwae")
    shown = run(*script, "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert shown.returncode == 0 and "Usage: swwae" in shown.stdout, shown.stderr
    listed = run(*script, "recipes", "--json", cwd=tmp_path, PYTHONPATH=str(site))
    assert {recipe["name"] for recipe in json.loads(listed.stdout)} == {
        path.stem for path in (ROOT / "recipes").glob("*.toml")
    }
