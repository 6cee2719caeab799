"""Training recipes, one TOML file each; `swwae recipes` lists them and `swwae_zoo.config.read_recipe` reads them."""
