"""What the agent tells the outside: metrics, the status as JSON and as a page, and the HTTP server that serves them.

Everything is made from the newest snapshot when somebody asks, so that no two of them can disagree.
"""
