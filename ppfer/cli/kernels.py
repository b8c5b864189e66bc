"""Kernels that start at once: forked from a process that has imported what notebooks import.

That takes five seconds, longer than most notebooks work under smoke. The process does nothing else,
so that what is forked from it is as good as new; it ends with the one that started it, and its
kernels with it. Where there is no safe fork, kernels start as they always do.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import runpy
import signal
import socket
import sys

import numpy as np
import psutil
import torch
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

IMPORTED = (
    "ipykernel.kernelapp",
    "matplotlib_inline.backend_inline",
    "ppfer.show.explore",
    "ppfer.cli",
)
LAUNCHER = "ipykernel_launcher"
OWN = "PPFER_PROGRESS"  # what may differ between kernels of one server


class Manager(AsyncKernelManager):
    """Of one kernel, for papermill."""

    def __init__(self, **traits: object):
        super().__init__(**traits)
        self.provisioner = _Provisioner(kernel_spec=self.kernel_spec, parent=self)


class _Provisioner(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **how: object) -> KernelConnectionInfo:
        server = ready(how["env"]) if cmd[:3] == [sys.executable, "-m", LAUNCHER] else None
        if not server:  # or the kernel is another's
            return await super().launch_kernel(cmd, **how)
        self.cwd = how.get("cwd") or os.getcwd()  # where papermill has gone
        self.process = server.fork(cmd[3:], how["env"], str(self.cwd))
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class _Kernel(psutil.Process):
    """What jupyter_client knows of a process; a parent that does not look reaps it."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return None if self.is_running() else 0

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end at any moment
            super().send_signal(number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def ready(env: dict[str, str]) -> Server | None:
    """The server of an environment, once it has imported everything; None where there can't be one.

    Ctrl-C before that is its caller's: there is no kernel yet that could answer it.
    """
    if sys.platform != "linux":
        return None
    server = _server(frozenset((k, v) for k, v in env.items() if k != OWN))
    if server.process.poll() is None:
        return server
    _server.cache_clear()  # it died; a kernel of its own says why, the next one tries again
    return None


class Server:
    def __init__(self, env: dict[str, str]):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", "from ppfer import kernels; kernels.serve()"]
        with ours, theirs:
            self.link = ours.makefile("rw")
            self.process = psutil.Popen(command, stdin=theirs, env=env, start_new_session=True)
        try:
            if not self.link.readline():
                self.process.wait()
        except BaseException:
            self.process.kill()
            raise

    def fork(self, arguments: list[str], env: dict[str, str], cwd: str) -> _Kernel:
        print(json.dumps([arguments, env, cwd]), file=self.link, flush=True)
        return _Kernel(int(self.link.readline()))


@functools.lru_cache(maxsize=1)
def _server(env: frozenset[tuple[str, str]]) -> Server:
    return Server(dict(env))


def serve() -> None:
    """Fork a kernel for every line that comes, until the process that sends them has ended."""
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # by which kernels see that this one is gone
    for name in IMPORTED:
        importlib.import_module(name)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # kernels let it through again
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.flush()
    os.write(0, b"ready\n")
    for line in sys.stdin:
        if not (child := os.fork()):
            return _become(*json.loads(line))
        os.write(0, b"%d\n" % child)


def _become(arguments: list[str], env: dict[str, str], cwd: str) -> None:
    """A kernel, as if this process had just been started for it."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)  # until there is a cell, Ctrl-C ends it in silence
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    np.random.seed(), torch.default_generator.seed()  # as on import; `random` does it by itself
    sys.argv[1:] = arguments
    runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)
