"""What the machine does for a run: precision, memory, processes."""
