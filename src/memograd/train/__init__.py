"""Training: one step, many steps, checkpoints."""
