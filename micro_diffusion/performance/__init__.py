"""What training and drawing cost: counted operations, measured seconds, and what follows for a whole recipe."""
