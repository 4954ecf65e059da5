"""Whether a process of this machine is still there.

Belongs here: telling what a killed process left behind from what a living one is at. Does not belong here: starting
processes, which is `core.workers`.
"""

import os


def is_running(process: int) -> bool:
    """Tell whether a process of this machine has this number, whoever's it is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
