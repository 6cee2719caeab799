"""Kernels of the hard pools, one pass over memory each: C for the CPU (`native.py`), Triton for CUDA (`cuda.py`).

`operators.py` calls them where they can run and falls back to plain torch (`reference.py`) where they can't. The C
kernels are built when the package is installed (`setup.py`); `library.py` chooses an instruction set.
"""
