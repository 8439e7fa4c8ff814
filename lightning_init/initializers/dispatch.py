"""Functions of oneMKL, called once before several threads call them.

oneMKL 2024.2, which torch is built with, looks for the kernel of a function when it is called first. Where several
threads do that at once, one of them may get a kernel of low precision for that call
(https://github.com/pytorch/pytorch/issues/188792), and weights would differ from one run to the next.
"""

from __future__ import annotations

import threading

import torch

__all__ = ["settle"]

_lock = threading.Lock()
_settled = False


def settle() -> None:
    """Has oneMKL find its kernels for the functions that laws use, if that has not been done in this process."""
    global _settled  # noqa: PLW0603 - it is a matter of the process
    if _settled:
        return
    with _lock:
        if not _settled:
            for dtype in (torch.float32, torch.float64):
                for function in (torch.erfinv, torch.exp, torch.log1p):
                    # So small a tensor is not shared out to threads.
                    function(torch.zeros(1, dtype=dtype, device="cpu"))
            _settled = True
