"""Backends: each turns a graph into something that runs. All have the same two methods, see ``run/eager.py``."""
