"""Convolutional blocks that autoencoders and UNets share: residual blocks, attention over cells, resampling."""
