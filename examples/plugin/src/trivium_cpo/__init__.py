"""Contrastive preference optimisation for Trivium: a model of the recipe (`stage`) and an objective (`objective`)."""
