"""HTTP server of the page, on loopback alone."""

from __future__ import annotations

import os
import socket

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from albef.demo.models import DemoError

_HOST = "127.0.0.1"
_MAX_UPLOAD = "20mb"


def bound(port: int) -> socket.socket:
    """Return a socket on a port of loopback.

    Raises:
        DemoError: If the port cannot be used.
    """
    try:
        return socket.create_server((_HOST, port))
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise DemoError(f"{_HOST}:{port}: the port cannot be used ({reason}); choose another with --port") from error


def serve(page: gr.Blocks, css: str, listening: socket.socket) -> None:
    """Serve a page until interrupted.

    Raises:
        KeyboardInterrupt: After the signal.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Otherwise a page of another site could resolve its own name to this machine and read the answers.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"])
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gr.mount_gradio_app(
        app,
        page,
        "/",
        css=css,
        footer_links=[],
        max_file_size=_MAX_UPLOAD,
        show_error=False,
        ssr_mode=False,
        theme=theme,
    )
    print(f"serving the page on http://{_HOST}:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run([listening])
