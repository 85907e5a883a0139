"""micro_diffusion: train text-to-image diffusion models from scratch on a small budget."""
