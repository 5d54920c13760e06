"""The work of `python -m gmu_lightning.app`: load the runs, and serve the page."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from gmu_lightning.config.options import AppConfig
from gmu_lightning.playground import server
from gmu_lightning.playground.results import Playground
from gmu_lightning.prediction.classifier import load


def serve(folders: Sequence[Path], threshold: str, options: AppConfig, bound: socket.socket, config_dir: str | None) -> None:
    """Load runs, print the address of the page, and serve it until a signal ends the process.

    Args:
        folders: of the runs.
        threshold: as in `Classifier.form`.
        options: as typed.
        bound: socket to serve on.
        config_dir: folder of classes of the user's own, or None.

    Raises:
        UserError: a run cannot be loaded, or the page has nothing to enter.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    classifiers = [load(folder, config_dir, options.backend) for folder in folders]
    with server.uploads() as uploads:
        playground = Playground(classifiers, threshold, uploads, options.examples)
        from gmu_lightning.playground.blocks import blocks, look

        page = blocks(playground)
        bound.listen()
        host, port = bound.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        print(f"{address} shows the page; Ctrl-C ends it", flush=True)
        if options.browser:
            webbrowser.open(address)
        server.run(page, look(), options.host, bound, options.upload_mb)
