"""What a row holds, and how its bytes become a batch."""
