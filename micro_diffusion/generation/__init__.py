"""What people do with a trained run: images from prompts and from images, and the recipe that each carries."""
