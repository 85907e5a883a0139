"""Captioned pictures to a streaming loader of latents."""
