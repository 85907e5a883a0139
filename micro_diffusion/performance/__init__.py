"""What training and generating cost: counted operations, measured seconds, and what follows for a whole recipe."""
