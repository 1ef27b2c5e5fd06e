"""Images by URL, from the hosts that the settings list and from nowhere else; off when they list none."""

import asyncio
import logging
from collections.abc import Callable

import httpcore
import httpx

from service.addresses import Address, CheckedBackend, ForbiddenAddressError, is_public
from service.body_limit import Held
from service.errors import FetchError, FetchTimeoutError, ForbiddenUrlError, InvalidUrlError, RequestError
from service.settings import Settings

logger = logging.getLogger("knet.fetch")
_MAX_URL = 2048
_AT_ONCE = 8
_PORTS = {"http": 80, "https": 443}


class Fetcher:
    """Fetches for all requests of a server; `permits` is another rule for addresses, for tests."""

    def __init__(self, settings: Settings, *, permits: Callable[[Address], bool] = is_public) -> None:
        self._hosts = settings.url_hosts
        self._schemes = ("https", "http") if settings.url_allow_http else ("https",)
        self._timeout_s = settings.url_timeout_s
        self._backend = CheckedBackend(permits)
        self._tls = httpcore.default_ssl_context() if self._hosts else None
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def fetch_all(self, urls: list[str], held: Held) -> list[bytes | RequestError]:
        """The files, or the error that stands for one; all together within the time for one request."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        tasks = (self._fetch(url, held, deadline) for url in urls)
        results = await asyncio.gather(*tasks, return_exceptions=True)  # all have ended: none takes bytes any more
        files: list[bytes | RequestError] = []
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, RequestError):
                raise result
            files.append(result)
        return files

    async def _fetch(self, text: str, held: Held, deadline: float) -> bytes:
        try:
            url = self._check(text)
            async with asyncio.timeout_at(deadline), self._places:
                return await self._read(url, held)
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise FetchTimeoutError(f"the image was not there after {self._timeout_s:g} s") from error
        except ForbiddenAddressError as error:
            logger.warning("URL refused: %s leads to an address that is not public", error)
            raise ForbiddenUrlError("the URL's host leads to an address that this server does not go to") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            logger.info("URL failed: %s: %s", type(error).__name__, error)
            raise FetchError("the URL's host cannot be reached, or does not speak HTTP as it should") from error

    def _check(self, text: str) -> httpx.URL:
        """The URL, if this server goes there."""
        if not self._hosts:
            raise ForbiddenUrlError("this server takes no URLs; send the image itself")
        try:
            url = httpx.URL(text) if len(text) <= _MAX_URL else None
        except httpx.InvalidURL:
            url = None
        if url is None or not url.host:
            raise InvalidUrlError(f"not a URL of at most {_MAX_URL:,} characters with a host")
        if url.scheme not in self._schemes:
            raise InvalidUrlError(f"the URL must begin with {' or '.join(f'{scheme}://' for scheme in self._schemes)}")
        if url.userinfo:
            raise InvalidUrlError("the URL must not hold a user or password")
        if not self._is_listed(url.raw_host.decode("ascii").lower(), url.port or _PORTS[url.scheme]):
            raise ForbiddenUrlError("the URL's host and port are not on this server's list")
        return url

    def _is_listed(self, host: str, port: int) -> bool:
        for listed in self._hosts:
            name, _, listed_port = listed.partition(":")
            is_same = host.endswith(name[1:]) if name.startswith("*.") else host == name
            if is_same and (port == int(listed_port) if listed_port else port in _PORTS.values()):
                return True
        return False

    async def _read(self, url: httpx.URL, held: Held) -> bytes:
        """The body of the answer; no redirect is followed, and no content type believed."""
        headers = [("Host", url.netloc.decode("ascii")), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        # A pool of its own for each image: no connection is shared between requests.
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=self._backend) as pool,
            pool.stream("GET", target, headers=headers) as response,
        ):
            if response.status != 200:
                raise FetchError(
                    f"the URL's host answered {response.status} where 200 is needed; redirects count as no"
                )
            pieces = []
            async for piece in response.aiter_stream():
                held.take(len(piece))
                pieces.append(piece)
        return b"".join(pieces)
