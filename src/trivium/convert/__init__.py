"""Configurations of other projects as recipes."""
