"""Shell completion: installed by one command, and it knows commands and flags."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SWWAE = Path(sysconfig.get_path("scripts")) / "swwae"


def swwae(home: Path, *args: str, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("_TYPER")}
    done = subprocess.run(
        [sys.executable, SWWAE, *args], env=clean | {"HOME": str(home)} | env, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "words, expected",
    [(("swwae", "re"), {"recipes", "reconstruct", "report", "reproduce"}), (("swwae", "tune", "--tri"), {"--trials"})],
)
def test_what_completes(words: tuple[str, ...], expected: set[str], tmp_path: Path) -> None:
    said = swwae(tmp_path, _SWWAE_COMPLETE="complete_bash", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    assert set(said.split()) == expected


def test_installed_for_bash(tmp_path: Path) -> None:
    assert "completion installed in" in swwae(tmp_path, "--install-completion", "bash")
    [script] = (tmp_path / ".bash_completions").iterdir()
    assert str(script) in (tmp_path / ".bashrc").read_text()
    code = f". {script}; COMP_WORDS=(swwae ev); COMP_CWORD=1; _swwae_completion swwae; echo ${{COMPREPLY[*]}}"
    path = f"{SWWAE.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", code], env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.stdout.split() == ["eval"], done.stderr
