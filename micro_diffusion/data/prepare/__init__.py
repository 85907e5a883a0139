"""From sources to MDS folders."""
