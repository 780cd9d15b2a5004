"""The command line."""

from trivium.cli.app import app, main

__all__ = ["app", "main"]
