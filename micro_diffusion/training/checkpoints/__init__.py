"""Checkpoints and run folders: written, found, checked, resumed."""
