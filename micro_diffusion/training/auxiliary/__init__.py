"""Losses beside that of the objective, in training alone."""
