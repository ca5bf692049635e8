"""The first process of the arena: runs the driver and reaps what is orphaned, as a host's first process does.

It has the host's environment, secret included, as on a container whose first process is the Jupyter server.
"""

from __future__ import annotations

import os
import subprocess
import sys

if __name__ == "__main__":
    driver = subprocess.Popen([sys.executable, "-m", *sys.argv[1:]])
    while True:
        pid, status = os.wait()
        if pid == driver.pid:
            # Everything else in these namespaces ends with this process.
            sys.exit(os.waitstatus_to_exitcode(status))
