"""Complete run configurations in TOML, read through `swwae_zoo.config.read_recipe`."""
