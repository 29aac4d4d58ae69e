"""No network but loopback, in every Python that has this folder in PYTHONPATH, and in the tests.

An audit hook, because nothing that runs later can take it away or import around it.
"""

import sys

LOOPBACK = (None, "", "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1", b"::1")


def only_loopback(event: str, args: tuple) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]  # a tuple of the internet, or the path of a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = (args[0],)
    else:
        return
    if isinstance(address, tuple) and address[0] not in LOOPBACK:
        raise OSError(f"internet is off: {address}")


sys.addaudithook(only_loopback)
