"""Training runs: rounds, trainer, evaluation, run directory."""
