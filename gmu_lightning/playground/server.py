"""Serve the page on one address of this machine: the socket, the rules for requests, and the end by a signal."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gmu_lightning.movie import UserError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# The browser refuses all traffic of the page with other hosts. Gradio compiles its templates, which is an eval.
HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Parts of Gradio's server that this page does not use: proxies, recordings, editors, lists of functions.
CLOSED = (
    *("/gradio_api/proxy", "/gradio_api/info", "/gradio_api/openapi", "/gradio_api/api", "/gradio_api/run", "/gradio_api/call"),
    *("/gradio_api/deep_link", "/gradio_api/dev", "/gradio_api/process_recording", "/gradio_api/profiling", "/gradio_api/mcp"),
    *("/gradio_api/vibe", "/gradio_api/undo-vibe", "/gradio_api/token", "/monitoring", "/login"),
)
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
PATIENCE = 1  # seconds for open requests at the end


def check_installed() -> None:
    """Raise UserError if Gradio is missing."""
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install 'gmu_lightning[app]'")


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that is bound to an address, and close it at the end.

    Args:
        host: name or number of an address of this machine.
        port: 0 takes a free one.

    Raises:
        UserError: the port is in use or reserved, or the host is no address of this machine.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
        except PermissionError as error:
            raise UserError(f"port={port} is reserved for the administrator: give a port from 1024 on") from error
        except OSError as error:
            if isinstance(error, socket.gaierror) or not in_use(error):
                raise UserError(f"host={host} is no address of this machine ({error.strerror}): leave host out") from error
            raise UserError(f"port={port} is in use: give another one, or port=0 for a free one") from error
        yield found


def in_use(error: OSError) -> bool:
    """Return whether a refused address is one that another process listens on."""
    return error.errno == errno.EADDRINUSE


@contextmanager
def uploads() -> Iterator[Path]:
    """Yield a new folder for uploaded files, and delete it at the end. Gradio is closed to other hosts from now on.

    Import Gradio within the context, since it reads its environment once.
    """
    folder = Path(tempfile.mkdtemp(prefix="gmu_lightning-")).resolve()
    os.environ.update(ENVIRONMENT, GRADIO_TEMP_DIR=str(folder))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Guard:
    """Answer the requests that the page needs, and no others.

    A request by another name than the server's is refused, because a page of a stranger could send it (DNS rebinding).

    Args:
        app: the ASGI application behind it.
        names: hosts by which the server is called; () accepts every name.
    """

    def __init__(self, app: Any, names: tuple[str, ...]):
        self.app, self.names = app, names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if (self.names and given.rsplit(":", 1)[0] not in self.names) or scope["path"].startswith(CLOSED):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self.app(scope, receive, answer)


def names_of(host: str) -> tuple[str, ...]:
    """Return the names by which a server on a host is called; () for a server on all addresses."""
    return () if host in ("0.0.0.0", "::") else (host, f"[{host}]", *LOOPBACK)


def run(blocks: Any, look: Any, host: str, bound: socket.socket, upload_mb: int) -> None:
    """Serve Gradio's blocks until a signal ends the process.

    Args:
        blocks: the page.
        look: {`theme` and `head`: value}, as Gradio takes them.
        host: that the socket is bound to.
        bound: the socket.
        upload_mb: largest upload, in megabytes.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    import gradio
    import uvicorn
    from fastapi import FastAPI

    blocks.has_launched = True  # from then on, Gradio accepts only files that were uploaded
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    outer = gradio.mount_gradio_app(
        outer,
        blocks,
        path="",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=upload_mb << 20,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        **look,
    )
    config = uvicorn.Config(
        Guard(outer, names_of(host)), log_level="critical", timeout_graceful_shutdown=PATIENCE, server_header=False, ws="none"
    )
    uvicorn.Server(config).run(sockets=[bound])
