"""Objects with a state of their own that is no attribute and in no container, by kind."""
