"""What the checks rely on: declared dependencies, the oldest versions that are tested, local hooks."""

import ast
import functools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTION_OF = {"PIL": "pillow", "sklearn": "scikit_learn", "yaml": "pyyaml"}
# triton comes with torch's CUDA builds and is used only where it is there.
COMES_WITH_TORCH = {"triton"}
OURS = {"swwae_zoo", "cli", *(path.stem for path in (ROOT / "tests").iterdir())}


def names(requirements: list[str]) -> set[str]:
    """Names of the required distributions, with `swwae_zoo[extra]` replaced by what that extra requires."""
    found: set[str] = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w, -]+)\])?", requirement).groups()  # type: ignore[union-attr]
        if name == "swwae_zoo":
            found |= {each for extra in extras.split(",") for each in names(EXTRAS[extra.strip()])}
        else:
            found.add(name.lower().replace("-", "_"))
    return found


EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
REQUIRED = names(PROJECT["dependencies"])


@functools.cache
def imports(folder: Path) -> list[tuple[Path, ast.Import | ast.ImportFrom]]:
    """Every import in a folder's files, also inside functions."""
    return [
        (path, node)
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def imported(folder: Path) -> dict[str, set[str]]:
    """Distribution -> files that import it anywhere."""
    found: dict[str, set[str]] = {}
    for path, node in imports(folder):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif node.level == 0:
            modules = [node.module or ""]
        for module in {name.split(".")[0] for name in modules} - sys.stdlib_module_names - OURS:
            found.setdefault(DISTRIBUTION_OF.get(module, module), set()).add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    "folder, extras",
    [
        ("swwae_zoo", [extra for extra in EXTRAS if extra not in ("test", "dev")]),
        ("cli", []),
        ("recipes", []),
        ("examples", []),
        ("benchmarks", ["test"]),
        ("tests", ["test"]),
    ],
)
def test_every_import_is_declared(folder: str, extras: list[str]) -> None:
    declared = REQUIRED | {name for extra in extras for name in names(EXTRAS[extra])} | COMES_WITH_TORCH
    undeclared = {name: files for name, files in imported(ROOT / folder).items() if name not in declared}
    assert not undeclared


def test_every_dependency_is_imported() -> None:
    used = imported(ROOT / "swwae_zoo").keys() | imported(ROOT / "cli").keys()
    assert used >= REQUIRED


def test_nothing_imports_the_command_line() -> None:
    for path, node in imports(ROOT / "swwae_zoo"):
        assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("swwae_zoo.cli")), path


def test_the_oldest_versions_tested_are_the_lower_bounds() -> None:
    lower = {name: bound for name, bound in (line.split(">=") for line in PROJECT["dependencies"] if ">=" in line)}
    lines = (ROOT / ".github" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned.keys() >= {"torch", "torchvision", "timm"}
    assert {name: lower[name] for name in pinned} == pinned


def test_hooks_are_local() -> None:
    """A commit downloads nothing."""
    config: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {hook["language"] for repo in config["repos"] for hook in repo["hooks"]} == {"system"}


def test_the_hosted_checks_run_the_same_targets() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make install", "make check", "make test"]
    local = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [line for line in local.splitlines() if line.startswith("make ")] == [
        "make install",
        "make check",
        "make test",
    ]
    oldest = workflow["jobs"]["test"]["strategy"]["matrix"]["include"][0]["python"]
    assert PROJECT["requires-python"] == f">={oldest}"
