"""One thread for torch, here and in the commands that tests run: small tensors on busy cores wait longer than they work."""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
