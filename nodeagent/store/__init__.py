"""What survives the agent: the applied contract, who holds what, the last known good document, and the lock.

The only speaker to the state directory. Nothing here logs, decides by time or decides what a loss means: it hands back
what is on disk and can be trusted, and says in `StateDir.notices` what it could not trust.
"""

from nodeagent.store.state_dir import StateDir

__all__ = ["StateDir"]
