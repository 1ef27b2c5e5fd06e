"""The processes of a run watch each other: where one is gone, the others end with a word, in bounded time.

Every process holds a connection to the first one, on which the kernel asks by itself whether the other side is there
(TCP keepalive), however busy both are. Collective operations do not notice a machine that lost its power or its
network: no packet says so, and they may wait for as long as the first process may validate.
"""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lightning_fabric import Fabric

# A machine that does not answer is given up after _IDLE_S + _NUM_PROBES * _PROBE_S seconds.
_IDLE_S = 10
_PROBE_S = 5
_NUM_PROBES = 4
_GRACE_S = 5.0  # that a process has to end by itself, with its own words, when another one is gone
_CONNECT_S = 120.0
_HELLO_S = 10.0  # for a line that is sent as soon as there is a connection
_ENDED = b"ended\n"  # a line from a process that has done its part; any other one says who is gone


@contextmanager
def watched_by_all(fabric: Fabric) -> Iterator[None]:
    """Around all that the processes of a launched run do together.

    A process that waits for one that is gone is ended, where it does not end by itself, by exit status 1.

    Raises:
        OSError: in place of a collective operation's error, when another process is gone.
    """
    if fabric.world_size == 1:
        yield
        return
    peers = _Peers(fabric)
    try:
        yield
    except RuntimeError as error:
        if peers.is_one_lost.wait(_GRACE_S):
            peers.close()
            raise OSError(peers.loss) from error
        peers.close()
        raise
    except BaseException:
        peers.close()
        raise
    peers.say_ended()
    peers.close()


class _Peers:
    """This process's connections: the first process has one to each other, the others one to the first."""

    def __init__(self, fabric: Fabric) -> None:
        self.is_one_lost = threading.Event()
        self.loss = ""
        self._is_closed = False
        self._connections: list[socket.socket] = []
        num_others = fabric.world_size - 1
        server = _listen() if fabric.global_rank == 0 else None
        own = (server.getsockname()[1] if server else 0, secrets.token_hex(16), socket.gethostname())
        port, token, first_host = fabric.broadcast(own)
        if server is None:
            connection = socket.create_connection((os.environ["MASTER_ADDR"], port), timeout=_CONNECT_S)
            connection.sendall(f"{token} {fabric.global_rank} {socket.gethostname()}\n".encode())
            self._watch(connection, f"process 0 (on {first_host})")
            return
        with server:
            server.settimeout(_CONNECT_S)
            while len(self._connections) < num_others:
                connection, _ = server.accept()
                connection.settimeout(_HELLO_S)
                line = []
                with suppress(OSError):
                    line = _read_line(connection).decode("ascii", errors="replace").split()
                if len(line) == 3 and secrets.compare_digest(line[0].encode(), token.encode()):
                    self._watch(connection, f"process {line[1]} (on {line[2]})")
                else:  # whoever else may have found the port, also one that is silent
                    connection.close()

    def say_ended(self) -> None:
        """This process has done its part: that it goes is no loss."""
        for connection in self._connections:
            with suppress(OSError):
                connection.sendall(_ENDED)

    def close(self) -> None:
        """Watch no more; without `say_ended` before, the others take this process for lost."""
        self._is_closed = True
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _watch(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(None)
        _probe(connection)
        self._connections.append(connection)
        threading.Thread(target=self._read, args=(connection, name), daemon=True, name=f"watch {name}").start()

    def _read(self, connection: socket.socket, name: str) -> None:
        try:
            line = _read_line(connection)
        except OSError:  # it does not answer any more, or this end was closed
            line = b""
        if line == _ENDED or self._is_closed or self.is_one_lost.is_set():
            return
        self.loss = line.decode(errors="replace").strip() or (
            f"{name} is gone: it failed, was killed, or its machine cannot be reached. The same command, on all "
            "machines, goes on from the last saved state"
        )
        self.is_one_lost.set()
        for other in self._connections:  # of the first process: the others would blame it
            with suppress(OSError):
                other.sendall(f"{self.loss}\n".encode())
        time.sleep(_GRACE_S)
        if not self._is_closed:
            sys.stderr.write(f"knet: {self.loss}\n")
            sys.stderr.flush()
            os._exit(1)


def _listen() -> socket.socket:
    """On any free port, of IPv6 too where there is some."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _probe(connection: socket.socket) -> None:
    """Let the kernel find out when the other side is not there any more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _NUM_PROBES)


def _read_line(connection: socket.socket) -> bytes:
    """Up to and with the end of a line; empty where the other side has closed before it."""
    line = b""
    while not line.endswith(b"\n"):
        if not (part := connection.recv(1)) or len(line) > 1000:
            return b""
        line += part
    return line
