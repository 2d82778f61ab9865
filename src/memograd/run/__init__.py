"""Backends: each turns a graph into something that runs. What each has to provide: ``run/backend.py``."""
