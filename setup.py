"""Builds the C kernels, one shared library per instruction set; the rest of the configuration is in pyproject.toml.

Every library is optional: where one can't be compiled (no compiler, an old one, Windows) it is left out with a
warning. Without any of them the package computes the same in plain torch. `swwae_zoo/kernels/library.py` chooses.
"""

import copy
import hashlib
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

KERNELS = Path("swwae_zoo", "kernels")
UNITS = ["narrow.c", "runtime.c", "squares.c", "windows.c", "winograd.c"]
HEADERS = ["lanes.h", "runtime.h", "typed.h", "vectors.h"]
# Results don't depend on the flags: no -ffast-math, since infinities and NaNs must come out as torch's.
FLAGS = [
    "-O3", "-g0", "-std=gnu11", "-fvisibility=hidden", "-fno-trapping-math", "-fno-strict-aliasing", "-Wno-psabi",
]  # fmt: skip
# Of each instruction set: what torch compiles its own kernels with, tuned for the first processors that had it.
INSTRUCTION_SETS: dict[str, list[str]] = {"baseline": []}
if sysconfig.get_platform().lower().endswith(("x86_64", "amd64")):
    AVX2 = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx2"] = [*AVX2, "-mtune=haswell"]
    AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
    INSTRUCTION_SETS["avx512"] = [*AVX2, *AVX512, "-mtune=icelake-server"]


class BuildKernels(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type != "unix":
            raise CompileError("the C kernels need gcc or clang")  # caught by setuptools: the extension is optional
        one = copy.copy(self)  # object files of its own: the sources are the same for every instruction set
        one.build_temp = str(Path(self.build_temp, ext.name))
        super(BuildKernels, one).build_extension(ext)


def digest() -> str:
    """Identifies the sources; `library.py` doesn't load a library that was built from others."""
    files = sorted(path for path in KERNELS.iterdir() if path.suffix in (".c", ".h"))
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(
            f"swwae_zoo.kernels._{name}",
            [(KERNELS / unit).as_posix() for unit in UNITS],
            depends=["setup.py", *((KERNELS / header).as_posix() for header in HEADERS)],
            define_macros=[("SOURCES", f'"{digest()}"')],
            extra_compile_args=FLAGS + flags,
            optional=True,
        )
        for name, flags in INSTRUCTION_SETS.items()
    ],
)
