"""The kubelet: how resources are served to it and registered with it, and what it says of who holds what.

The only room that speaks gRPC. It imports the model and is handed everything else.
"""
