"""What is wrong with a model: which factor made it NaN, which gradients are missing, vanish or explode."""
