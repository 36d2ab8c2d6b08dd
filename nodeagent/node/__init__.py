"""The node's room: labels, annotations and events, and the only speaker to the Kubernetes API."""
