"""``albef demo``: serve the page."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from albef.serving import access


def add(command: argparse.ArgumentParser) -> None:
    """Add the options of `albef demo`."""
    command.set_defaults(function=run)
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--models", type=Path, default=Path("artifacts/finetune"), help="folder of training stages, one per task"
    )
    source.add_argument("--url", help="host and port of the gRPC service of a server that answers instead")
    access.add_options(command)
    command.add_argument(
        "--images", type=Path, default=Path("artifacts/exported/images/test"), help="folder of images to search"
    )
    command.add_argument(
        "--lists", type=Path, default=Path("artifacts/validated/lists"), help="folder of lists, for examples and words"
    )
    command.add_argument("--port", type=int, default=7860, help="port on loopback; 0 selects a free one")


def run(args: argparse.Namespace) -> None:
    """Serve the page until interrupted.

    Raises:
        DemoError: If gradio is missing, there is no model, or the port is in use.
        ValueError: If a model or an image cannot be read.
        ServingError: If the server does not answer.
    """
    from albef.demo.models import DemoError

    if importlib.util.find_spec("gradio") is None:
        raise DemoError("gradio is not installed, which the page needs; install albef with the extra 'demo'")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder is deleted
    # Gradio reads the variables when it is imported. Uploads are in the folder, and browsers keep no inputs.
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="albef-demo-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_RUN_HISTORY": "false"}
        from albef.demo import page, server
        from albef.demo.data import Data

        with server.bound(args.port) as socket:
            data = Data(args.images, args.lists)
            if args.url is None:
                from albef.demo.local import Local

                server.serve(page.build(Local(args.models, data), data), page.CSS, socket)
            else:
                from albef.demo.remote import Remote

                with Remote(args.url, access.credentials(args), data) as models:
                    server.serve(page.build(models, data), page.CSS, socket)
