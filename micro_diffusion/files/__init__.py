"""Files on disk: whole or not there, locked, checked."""
