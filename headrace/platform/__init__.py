"""The embedded platform: starts and stops real servers for a machine that has none.

    with open_platform(settings) as endpoints: ...

A *supervisor* process owns the servers. Every command holds a *lease* on it, a shared lock that the kernel drops when the
command ends, however it ends; when no lease is left the supervisor stops the servers and ends too.
"""

from headrace.platform.lease import open_platform

__all__ = ["open_platform"]
