"""Keeps one server process, and ends it when whoever started it is gone. Run as a script; needs the standard library only.

    python keeper.py COMMAND...

The end of standard input is the sign: a process killed with SIGKILL cannot tidy up, but its pipes close.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

GRACE_S = 15.0


def main() -> int:
    """Run the command in a process group of its own until it ends or the pipe closes; return its status."""
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", flush=True)
        return 127
    print(f"started as process {child.pid}", flush=True)
    threading.Thread(target=end_with_pipe, args=(child,), daemon=True).start()
    status = child.wait()
    end_group(child.pid, signal.SIGKILL)  # what the server started and left behind
    return status if status >= 0 else 128 - status


def end_with_pipe(child: subprocess.Popen[bytes]) -> None:
    """Wait for the end of standard input, then end the group: politely, then not."""
    while os.read(0, 4096):
        pass
    end_group(child.pid, signal.SIGTERM)
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        end_group(child.pid, signal.SIGKILL)


def end_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


if __name__ == "__main__":
    sys.exit(main())
