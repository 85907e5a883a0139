"""Sources of captioned pictures: each only yields (picture, caption, key)."""
