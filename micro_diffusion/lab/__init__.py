"""Which ingredient is worth its compute: short trainings that differ in one thing, compared over seeds."""
