"""From MDS folders, local or remote, to batches."""
