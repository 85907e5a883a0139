"""What happens along the way of a training."""
