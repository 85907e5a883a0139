"""A configuration is checked before anything is built."""
