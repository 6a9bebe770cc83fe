"""Recipes: what a training run is made of, as a validated TOML file or as Python objects."""
