"""Sources of captioned images: each only yields (image, caption, key)."""
