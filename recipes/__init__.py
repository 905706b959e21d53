"""Recipes: what to train on what; the demo's tiny model, its problems and its cold-start data."""
