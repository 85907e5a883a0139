"""Networks that predict; they know nothing of noise schedules."""
