"""Serve this folder to browsers on this machine: `python serve.py [PORT]`.

Browsers give a page threads only with the two headers below; without them, WebAssembly runs in one.
"""

import contextlib
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Files with the headers that isolate a page."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Add the headers."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def main() -> None:
    """Serve until stopped."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    folder = str(Path(__file__).resolve().parent)
    with ThreadingHTTPServer(("127.0.0.1", port), lambda *given: Handler(*given, directory=folder)) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
