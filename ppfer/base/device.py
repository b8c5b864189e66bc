"""The device: precision, transfers, threads, names, and what a lack of its memory means."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torchvision
from torch import Tensor

from ppfer import __version__
from ppfer.base.errors import PpferError, out_of_memory

# glibc gives large tensors back to the system and takes them again, which costs a tenth of the time
# in which videos are protected: its M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD
if platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ):
    for parameter, value in ((-1, 2**26), (-2, 2**22), (-3, 2**25)):
        ctypes.CDLL(None).mallopt(parameter, value)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where `precision` asks for it ("auto": on CUDA only)."""
    on = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=on)


def send(small: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor to a device, without waiting for what that has still to do."""
    if device.type != "cuda":
        return small.to(device)
    return small.pin_memory().to(device, non_blocking=True)


_usual: list[int] = []  # threads without `single_thread_pool`, once for each of its pools at work


@contextlib.contextmanager
def single_thread_pool(count: int = 0) -> Iterator[ThreadPoolExecutor]:
    """So many threads (0: as many as PyTorch uses) each of which computes alone, for pictures too
    small to be shared by several.

    PyTorch takes what one thread is told for all that begin later; the last pool that is closed
    puts it right.
    """
    usual = _usual[0] if _usual else torch.get_num_threads()
    _usual.append(usual)
    alone = {"initializer": torch.set_num_threads, "initargs": (1,)}
    try:
        with ThreadPoolExecutor(count or usual, **alone) as pool:
            yield pool
    finally:
        _usual.pop()
        if not _usual:
            torch.set_num_threads(usual)


def device_name(device: torch.device) -> str:
    """E.g. "NVIDIA H100 80GB HBM3" or "CPU x86_64, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions a result depends on."""
    return {
        "ppfer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }


@contextlib.contextmanager
def explaining_memory(what: str, device: torch.device, advice: str) -> Iterator[None]:
    """A `PpferError` that says what to change in place of `torch.OutOfMemoryError` and the like."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not out_of_memory(error):
            raise
        raise PpferError(
            f"{what} does not fit the memory of {device_name(device)}; run again with less at once,"
            f" e.g. {advice}. Finished stages whose settings stay the same are kept. `ppfer cost` "
            "says what each stage takes"
        ) from error
