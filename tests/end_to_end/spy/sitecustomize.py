"""Write every name look-up and connection of a Python process to the file that GMU_SPY names, a JSON object a line.

Python imports this module as it starts if its folder is on PYTHONPATH; child processes inherit both variables.
"""

from __future__ import annotations

import json
import os
import sys

NAMES = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
ADDRESSES = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getnameinfo")


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event in NAMES:
        host: object = arguments[0]
    elif event in ADDRESSES:
        address = arguments[-1]
        if not isinstance(address, tuple) or not address:  # a Unix socket, or a socket that is connected already
            return
        host = address[0]
    else:
        return
    text = host.decode(errors="replace") if isinstance(host, bytes) else host
    line = json.dumps({"event": event, "host": text, "command": sys.argv[:4]}) + "\n"
    file = os.open(os.environ["GMU_SPY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


if "GMU_SPY" in os.environ:
    sys.addaudithook(_note)
