"""Which addresses of the network an image may be fetched from, checked at the moment of the connection.

A name is resolved once, its addresses are checked, and one of those is connected to: a name that leads elsewhere the
next time it is asked (DNS rebinding) gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Addresses of version 6 that stand for one of version 4: translated (NAT64, both prefixes), 6to4 and Teredo.
_EMBEDDING = tuple(
    ipaddress.ip_network(prefix) for prefix in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)


class ForbiddenAddressError(Exception):
    """A name leads to no address that may be connected to."""


def is_public(address: Address) -> bool:
    """Whether an address is of the internet at large: not private, loopback, link-local, multicast or reserved."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _EMBEDDING) or address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to permitted addresses only; raises ForbiddenAddressError."""

    def __init__(self, permits: Callable[[Address], bool]) -> None:
        self._permits = permits
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check, connect."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # a UnicodeError: a label of the name is empty or too long
            raise httpcore.ConnectError(str(error)) from error
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not addresses or not all(self._permits(address) for address in addresses):
            raise ForbiddenAddressError(host)
        return await self._backend.connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """As httpcore asks."""
        await self._backend.sleep(seconds)
