"""``python -m lightning_init``, the same as ``lightning-init``."""

from __future__ import annotations

import sys

from lightning_init.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
