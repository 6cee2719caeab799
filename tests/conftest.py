"""Real processes to kill and real disks to fill."""

import multiprocessing
import os
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

pytest_plugins = ["hub_server.fixtures"]

# Torch reads it when first imported: small tensors on several busy cores wait longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def room_in_memory(size: int = 8 * 2**30) -> bool:
    """Whether the file system in memory takes what the tests write and run, with as much memory left free."""
    try:
        words = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = min(int(words["MemAvailable"].split()[0]) * 1024, shutil.disk_usage("/dev/shm").free)
        runs = not os.statvfs("/dev/shm").f_flag & os.ST_NOEXEC
    except (OSError, KeyError, ValueError):
        return False
    return free >= size and runs and os.access("/dev/shm", os.W_OK)


# Tests write some 30,000 small files and wait for the disk each time: where there is plenty of memory they go there.
if "TMPDIR" not in os.environ and "PYTEST_DEBUG_TEMPROOT" not in os.environ and room_in_memory():
    os.environ["PYTEST_DEBUG_TEMPROOT"] = "/dev/shm"

# A command that a test interrupted in its own process leaves SIGINT ignored, and children inherit that.
PREAMBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
for name, descriptor in ((STDOUT, 1), (LOG, 2)):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
import torch
torch.set_num_threads(1)
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them, so all processes of a test must use as many."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., BaseProcess]]:
    """`child(code, **names)` runs Python code in a process; what it says is in tmp_path/stdout and tmp_path/stderr.

    It is forked from a server that has the package loaded already and never ran it, so that starting takes no
    seconds and inherits nothing from the tests.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["swwae_zoo.training.rounds", "swwae_zoo.cli.main", "sklearn.datasets", "matplotlib.figure"]
    )
    started: list[BaseProcess] = []

    def start(code: str, **names: object) -> BaseProcess:
        script = tmp_path / f"child{len(started)}.py"
        script.write_text(PREAMBLE + code, encoding="utf-8")
        names = {"STDOUT": str(tmp_path / "stdout"), "LOG": str(tmp_path / "stderr"), **names}
        process = context.Process(target=runpy.run_path, args=(str(script), names, "__child__"))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
        process.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(size)` mounts an empty file system of so many bytes; a test is skipped where that is not allowed."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("may not mount a file system")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
