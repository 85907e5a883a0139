"""Text encoders: captions in, per-token features out."""
