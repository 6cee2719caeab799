"""timm's optimisers and schedulers, and parameter groups for fine-tuning."""
