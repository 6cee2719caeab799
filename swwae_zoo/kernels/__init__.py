"""Kernels of the hard pools, one pass over memory each: C for the CPU (`native.py`), Triton for CUDA (`cuda.py`).

`windows.py` calls them where they can run and falls back to plain torch where they can't.
"""
