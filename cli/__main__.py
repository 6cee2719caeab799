"""`python -m swwae_zoo.cli`: the `swwae` command, for launchers such as torchrun that start a module."""

from .main import app

app(prog_name="swwae")
