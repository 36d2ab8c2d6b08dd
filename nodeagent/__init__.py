"""A Kubernetes node agent that makes a GPU node be what a file in Git says it should be."""

__version__ = "0.1.0"
