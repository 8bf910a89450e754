"""A server on the loopback device that gives files as well or as badly as a test wants."""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `files`; what it is asked is in `asked`, as path and Range header."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True  # whether parts are given
        self.heeds_if_range = True
        self.tags = True  # whether an ETag is sent
        self.break_after: list[int] = []  # bytes after which the next answers break off
        self.announced: int | None = None  # a wrong length

    @property
    def base(self) -> str:
        """Address of the files."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges_asked(self) -> list[str | None]:
        """Range headers of all requests."""
        return [part for _, part in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self):
        server, part = self.server, self.headers.get("Range")
        server.asked.append((self.path, part))
        content = server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        same = self.headers.get("If-Range") == tag or not server.heeds_if_range
        wanted = re.fullmatch(r"bytes=(\d+)-", part or "")
        start = int(wanted[1]) if wanted and same and server.ranges else 0
        whole = wanted is None or not same or not server.ranges
        if start >= len(content) and not whole:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(200 if whole else 206)
        self.send_header("Content-Length", str(server.announced or len(content) - start))
        if server.tags:
            self.send_header("ETag", tag)
        if not whole:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = start + server.break_after.pop(0) if server.break_after else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server that runs in a thread of its own."""
    server = FileServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
