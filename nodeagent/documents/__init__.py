"""Strict reading of YAML and JSON Schema checks, for every file that people write for the agent.

Stock YAML readers guess (`on` is true, `012` is ten), keep the last of two equal keys and forget where things stood. A
file from Git that changes a node must not be guessed at, and its author wants the line.
"""
