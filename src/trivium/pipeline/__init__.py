"""Runs a recipe's stages once each: graph, fingerprints, store, lineage, and the checks that need data."""
