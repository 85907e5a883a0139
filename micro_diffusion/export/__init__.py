"""Runs as folders that other programs open: a pipeline of diffusers, a torch.export program, an ONNX graph."""
