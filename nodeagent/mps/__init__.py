"""MPS: the daemons that let pods share a GPU at the same time, the host that keeps them, and what the agent sees."""
