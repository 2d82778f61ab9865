"""Updates of parameters in one pass over each, in place: what of a graph is one (`regions`), as C (`kernels`), run
behind the rest (`update`)."""
