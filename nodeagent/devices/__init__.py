"""What the node has: its GPUs, from NVIDIA's driver or from a simulation file, behind one protocol.

A driver owns everything that can go wrong while asking (absence, loss, calls that never return) and shows it in the
inventory; it never raises to those who read it, and never blocks them.
"""
