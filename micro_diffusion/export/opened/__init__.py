"""Files that an exported folder holds as they are; diffusers runs them where this package is not installed."""
