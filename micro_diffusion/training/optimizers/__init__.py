"""Optimizers, and what else happens to weights and gradients at a step."""
