"""What is installed: the right folders, nothing beside `swwae_zoo`, and a `swwae` that runs from anywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from hub_server.client import Client

import swwae_zoo

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what is built from, without what was built already: no build folder appears in the checkout."""
    return copy_source(tmp_path / "source")


def copy_source(source: Path) -> Path:
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "swwae_zoo", "cli", "recipes"):
        for path in [ROOT / name, *(ROOT / name).rglob("*")]:
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".so", ".pyd"):
                copy = source / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    return source


def quick_compiler(folder: Path) -> str:
    """The compiler in a hurry: without optimising, it needs a tenth of the time."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler")
    script = folder / "cc"
    script.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0\n')
    script.chmod(0o755)
    return str(script)


def build_wheel(source: Path, out: Path, compiler: str) -> Path:
    pip = (*PIP, "wheel", "--no-deps", "--no-build-isolation")
    built = run(*pip, "--wheel-dir", out, source, cwd=source.parent, CC=compiler)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_source(folder / "source"), folder / "out", quick_compiler(folder))


def libraries(names: Iterable[str]) -> set[str]:
    """Instruction sets of the shared libraries among these files."""
    return {
        Path(name).name.split(".")[0].removeprefix("_") for name in names if name.endswith(tuple(EXTENSION_SUFFIXES))
    }


POOL = """
import sys, warnings
import torch
sys.path.insert(0, SITE)
import swwae_zoo, timm
from swwae_zoo.kernels import native
from swwae_zoo.layers.pooling import switch_pool2d, switch_unpool2d
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("default")
    pooled = switch_unpool2d(*switch_pool2d(torch.ones(1, 1, 4, 4), 2), 2).sum().item()
answer = dict(file=swwae_zoo.__file__, name=swwae_zoo.SWWAE.__name__, models=timm.list_models("swwae_mnist"),
              kernels=native.available(torch.float32), pooled=pooled, said=[str(each.message) for each in said])
"""


def pool(site: Path, kernels: str, home: Path) -> dict[str, Any]:
    """Uses the package in a folder, in a process that has loaded torch and no other copy of the package."""
    client = Client(home, SWWAE_KERNELS=kernels)
    done = client.tell(do="run", code=f"SITE = {str(site)!r}\n{POOL}")
    client.close()
    assert done.pop("file") == str(site / "swwae_zoo" / "__init__.py")
    assert (done.pop("name"), done.pop("models"), done.pop("pooled")) == ("SWWAE", ["swwae_mnist"], 4.0)
    return done


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
    assert "baseline" in libraries(names) and not any(name.endswith((".c", ".h")) for name in names)
    for folder, inside in (("swwae_zoo", "swwae_zoo"), ("cli", "swwae_zoo/cli"), ("recipes", "swwae_zoo/recipes")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".toml", ".typed") or path.is_file() and path.parent.parent.name == "weights":
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names


def test_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    installed = run(*PIP, "install", "--no-deps", "--no-compile", "--target", site, wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    # Named like the script, so that the import is as light as the script's own.
    code = "import sys; sys.argv = ['swwae']; import swwae_zoo.cli.main; print(swwae_zoo.__file__)"
    found = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert found.stdout.strip() == str(site / "swwae_zoo" / "__init__.py"), found.stderr
    script = (sys.executable, site / "bin" / "swwae")
    version = run(*script, "--version", cwd=tmp_path, PYTHONPATH=str(site), SWWAE_KERNELS="require")
    assert re.fullmatch(r"swwae_zoo \S+ \(kernels: (baseline|avx2|avx512)\)\n", version.stdout), version.stderr
    assert pool(site, "require", tmp_path / "home") == {"kernels": True, "said": []}
    shown = run(*script, "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert shown.returncode == 0 and "Usage: swwae" in shown.stdout, shown.stderr
    listed = run(*script, "recipes", "--json", cwd=tmp_path, PYTHONPATH=str(site))
    assert {recipe["name"] for recipe in json.loads(listed.stdout)} == {
        path.stem for path in (ROOT / "recipes").glob("*.toml")
    }


def test_installation_without_a_working_compiler(source: Path, tmp_path: Path) -> None:
    """It succeeds, says what is missing once, and computes the same in plain torch."""
    path, site = build_wheel(source, tmp_path / "out", "/bin/false"), tmp_path / "site"
    with zipfile.ZipFile(path) as archive:
        assert not libraries(archive.namelist())
        archive.extractall(site)
    env = {"PYTHONPATH": str(site), "SWWAE_KERNELS": "auto"}
    version = run(sys.executable, "-m", "swwae_zoo.cli", "--version", cwd=tmp_path, **env)
    assert version.stdout.endswith(" (kernels: none, plain torch)\n"), version.stderr
    done = pool(site, "auto", tmp_path / "home")
    assert not done["kernels"] and len(done["said"]) == 1
    assert "install a C compiler (gcc or clang) and install swwae_zoo again" in done["said"][0]


def test_editable_installation_has_the_kernels(source: Path, tmp_path: Path) -> None:
    options = ("--no-deps", "--no-build-isolation", "--ignore-installed", "--prefix", tmp_path / "env")
    installed = run(*PIP, "install", *options, "--editable", source, cwd=tmp_path, CC=quick_compiler(tmp_path))
    assert installed.returncode == 0, installed.stdout + installed.stderr
    [site] = {path.parent for path in (tmp_path / "env").rglob("*.pth")}
    # Without site-packages, where another swwae_zoo is installed.
    code = (
        f"import site, sys; sys.argv = ['swwae']; site.addsitedir({str(site)!r}); "
        "from swwae_zoo.kernels import library; print(library.__file__, library.load().name)"
    )
    found = run(sys.executable, "-S", "-c", code, cwd=tmp_path, SWWAE_KERNELS="require")
    file, name = found.stdout.split()
    assert Path(file) == source / "swwae_zoo" / "kernels" / "library.py" and name in ("baseline", "avx2", "avx512")
    # The sources changed after the installation: their libraries are not used.
    with open(source / "swwae_zoo" / "kernels" / "windows.c", "a") as file:
        file.write("/* changed */")
    found = run(sys.executable, "-S", "-c", code, cwd=tmp_path, SWWAE_KERNELS="auto")
    assert found.stdout.split()[1] == "none"


def test_sdist_holds_what_the_kernels_are_built_from(source: Path, tmp_path: Path) -> None:
    code = f"from setuptools.build_meta import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    built = run(sys.executable, "-c", code, cwd=source)
    assert built.returncode == 0, built.stderr
    with tarfile.open(tmp_path / built.stdout.split()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {path.relative_to(source).as_posix() for path in (source / "swwae_zoo" / "kernels").iterdir()}
    assert names >= expected | {"setup.py", "pyproject.toml", "cli/main.py", "recipes/demo.toml"}
    assert not libraries(names)
