"""How much of the machine's memory a child process may take before it is killed.

Decides: what counts as taken, and how much is too much. Refuses to know: what the child is for.
Pages of files that the process merely looks at do not count: weights that lie mapped are the
system's to drop.
"""

from __future__ import annotations

import psutil

GIB = 1 << 30
SHARE_OF_RAM = 0.9
"""Above it a machine swaps itself to death before the system kills anybody."""


def limit_bytes(limit_gib: float) -> int:
    """The limit; 0 GiB means as much as is good for this machine."""
    if limit_gib > 0:
        return int(limit_gib * GIB)
    return int(SHARE_OF_RAM * psutil.virtual_memory().total)


def taken_bytes(pid: int) -> int:
    """What the process holds that nobody else could use; 0 for one that is gone."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    # Linux: resident pages of its own. Windows: committed pages of its own.
    return int(getattr(memory, "private", memory.rss - getattr(memory, "shared", 0)))
