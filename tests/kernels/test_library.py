"""The choice of the C kernels: which are loaded, what is said where there are none, and who says it."""

import importlib.machinery
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from instruction_sets import LIBRARIES

from swwae_zoo.kernels import library, native
from swwae_zoo.layers.pooling import switch_pool2d, switch_unpool2d

needs_kernels = pytest.mark.skipif(not LIBRARIES, reason="installed without a C compiler")


@pytest.fixture
def load(monkeypatch):
    """`load(SWWAE_KERNELS)` as in a new process."""

    def fresh(wish):
        monkeypatch.setenv("SWWAE_KERNELS", wish)
        return library.load.__wrapped__()

    return fresh


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """`installed(names)`: as if these libraries alone had been built, in a folder without the sources."""
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    real, suffix = os.path.dirname(library.__file__), importlib.machinery.EXTENSION_SUFFIXES[0]

    def build(names):
        for name in names:
            shutil.copy(os.path.join(real, f"_{name}{suffix}"), tmp_path)
        monkeypatch.setattr(library, "open_library", library.open_library.__wrapped__)  # what was opened is not kept
        return tmp_path

    return build


@needs_kernels
def test_the_widest_that_was_built_is_chosen(load, installed):
    assert load("auto").name == load("require").name == list(LIBRARIES)[-1]
    for name in LIBRARIES:
        assert load(name)[:2] == (name, LIBRARIES[name])
    installed(["baseline"])
    assert load("auto").name == load("require").name == "baseline"


def test_without_kernels(load, installed):
    installed([])
    found = load("auto")
    assert found.name == "none" and found.library is None and "C compiler" in found.reason
    for wish in ("require", "baseline", "avx512"):
        with pytest.raises(ValueError, match=rf"SWWAE_KERNELS={wish}, but .* were not built .* install a C compiler"):
            load(wish)
    assert load("off") == ("none", None, "")
    with pytest.raises(ValueError, match="SWWAE_KERNELS: got 'fast', expected auto, off, require or one of baseline, "):
        load("fast")


@needs_kernels
def test_an_instruction_set_that_the_processor_lacks(load, monkeypatch):
    monkeypatch.setattr(library, "runnable", lambda: ("baseline",))
    assert load("auto").name == "baseline"
    with pytest.raises(ValueError, match="SWWAE_KERNELS=avx512, but .* this processor can run baseline"):
        load("avx512")


@needs_kernels
def test_libraries_that_cannot_be_used(load, installed):
    """Half a file, and a library whose sources have changed since: neither is called."""
    folder = installed(["baseline"])
    [path] = folder.iterdir()
    (folder / "windows.c").write_text("other sources")
    assert load("auto").library is None and "other sources" in load("auto").reason
    start = path.read_bytes()[:1000]
    path.unlink()  # rather than truncate what is mapped to memory
    path.write_bytes(start)
    assert load("auto").library is None and path.name in load("auto").reason


def test_plain_torch_is_announced_once(monkeypatch, installed):
    installed([])
    monkeypatch.setattr(native, "load", library.load.__wrapped__)
    monkeypatch.delenv("SWWAE_KERNELS", raising=False)
    native._library.cache_clear()
    eye = torch.eye(4)[None, None]
    try:
        with pytest.warns(UserWarning, match="the pools run in plain torch, which is slower: .* C compiler") as said:
            for _ in range(3):
                assert switch_unpool2d(*switch_pool2d(eye, 2), 2).sum() == 2
        assert len(said) == 1
        monkeypatch.setenv("SWWAE_KERNELS", "off")
        native._library.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert switch_unpool2d(*switch_pool2d(eye, 2), 2).sum() == 2
    finally:
        native._library.cache_clear()


def test_what_version_says():
    code = """
import sys; sys.argv = ["swwae"]
from swwae_zoo.kernels import library
print(library.describe(), "torch" in sys.modules)
"""
    for wish, said in [("off", "kernels: none, plain torch"), *((name, f"kernels: {name}") for name in LIBRARIES)]:
        environment = os.environ | {"SWWAE_KERNELS": wish, "HOME": "/nonexistent"}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert run.stdout == f"{said} False\n"
