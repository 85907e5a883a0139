"""A run behind HTTP: requests in, batches to the network, images out."""
