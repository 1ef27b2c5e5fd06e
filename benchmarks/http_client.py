"""A lean HTTP/1.1 client: whole requests as bytes, kept connections, answers parsed in C."""

import asyncio
from urllib.parse import urlsplit

import httptools

NO_ANSWER = "none"  # the connection ended: what stands in place of a status


def post_request(url: str, body: bytes, media_type: str) -> bytes:
    """All bytes of a POST request."""
    address = urlsplit(url)
    target = f"{address.path}?{address.query}" if address.query else address.path
    head = f"POST {target} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {media_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """A connection that is kept; one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._parts)))

    def close(self) -> None:
        """End it."""
        self.is_open = False
        self._transport.close()

    async def post(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; raises OSError when the connection ends."""
        if not self.is_open:
            raise ConnectionError("the connection is closed")
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


class Connections:
    """Connections to one server: idle ones are used again."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port or 80
        self._idle: list[Connection] = []

    async def post(self, request: bytes) -> tuple[int | str, bytes]:
        """Status (or "none": no answer came) and body."""
        try:
            connection = await self._take()
            answer = await connection.post(request)
        except OSError:
            return NO_ANSWER, b""
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            self._idle.pop().close()

    async def _take(self) -> Connection:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, self._host, self._port))[1]
