"""Finds out before a training what would stop it."""
