"""Objectives: what a backbone is trained to predict, and the Denoiser that it then is."""
