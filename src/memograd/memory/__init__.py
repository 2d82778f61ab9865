"""What to keep and what to compute again within a byte budget."""
