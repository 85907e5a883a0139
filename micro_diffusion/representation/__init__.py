"""What an image is about, patch by patch, as networks see it that were trained without captions."""
