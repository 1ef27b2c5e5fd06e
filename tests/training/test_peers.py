"""Processes that watch each other, as two threads with connections of their own."""

import queue
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from training import peers


@dataclass
class Launched:
    """What is asked of Fabric: a rank, and a word from the first process to the other."""

    global_rank: int
    words: "queue.Queue[Any]"
    strangers: tuple[bytes, ...] = ()  # what others send to the port before the other process does
    world_size: int = 2
    sockets: list[socket.socket] = field(default_factory=list)

    def broadcast(self, own: Any) -> Any:
        if self.global_rank:
            return self.words.get(timeout=20)
        for greeting in self.strangers:
            stranger = socket.create_connection(("127.0.0.1", own[0]))
            stranger.sendall(greeting)
            # Closed by a reset, as scanners of ports do.
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stranger.close()
        self.sockets.append(silent := socket.create_connection(("127.0.0.1", own[0])))
        silent.sendall(b"G")
        self.words.put(own)
        return own


@pytest.mark.parametrize("strangers", [(), (b"",), (b"GET / HTTP/1.1\r\n\r\n",), ("\u00fc 1 host\n".encode(),)])
def test_strangers_at_the_port_do_not_end_a_run(monkeypatch, strangers):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(peers, "_HELLO_S", 0.2)
    words: queue.Queue[Any] = queue.Queue()
    first, second = Launched(0, words, strangers), Launched(1, words)
    with ThreadPoolExecutor(2) as pool:
        watching = [pool.submit(peers._Peers, one) for one in (first, second)]
        found = [future.result(timeout=30) for future in watching]
    assert [len(one._connections) for one in found] == [1, 1]
    for one in found:
        one.say_ended()
    for one in found:
        one.close()
    assert not any(one.is_one_lost.is_set() for one in found)
    for silent in first.sockets:
        silent.close()
