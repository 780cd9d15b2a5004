"""The recipe: what it may say (models), how it is read (load), what is refused before any compute (traps)."""
