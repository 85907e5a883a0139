"""Captioned images to a streaming loader of latents."""
