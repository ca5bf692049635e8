"""What a cell may do: the counterpart of the attacks, which shows that they are run at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from .toolbox import Verdict, World, attack


@attack(harmless=True)
def uses_what_a_cell_may_use(world: World) -> Verdict:
    path = f"own-file-{os.getpid()}"
    with open(path, "w+") as file:
        file.write("own text")
        file.seek(0)
        assert file.read() == "own text"
    os.unlink(path)
    assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], check=True, capture_output=True).stdout == b"42\n"
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: received.append(server.accept()[0].recv(16)))
        thread.start()
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            client.sendall(b"hello")
        thread.join(5)
    return received == [b"hello"], "files, processes, threads and loopback work"
