"""Kernels that start at once, for the tests of notebooks: forked from a process that has imported
what notebooks import, which takes six seconds each time, longer than most of them work under smoke.

``python tests/forked_kernels.py`` is that process: it does nothing else, so that what is forked
from it is as good as new, and it ends with the one that started it. `papermill` uses the kernels
inside ``with forked_kernels.default():``.
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
from collections.abc import Iterator

import psutil
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from papermill.engines import NBClientEngine, papermill_engines

from ppfer.base.progress import FILE

IMPORTED = (
    "ipykernel.kernelapp",
    "matplotlib_inline.backend_inline",
    "ppfer.show.explore",
    "ppfer.show.tradeoff_explorer",
    "ppfer.cli.protect",
)
LAUNCHER = "ipykernel_launcher"


@contextlib.contextmanager
def default() -> Iterator[None]:
    """Notebooks get forked kernels, where a process can fork safely."""
    if sys.platform == "linux":
        papermill_engines.register(None, _Engine)
    try:
        yield
    finally:
        papermill_engines.register(None, NBClientEngine)


class _Engine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(cls, manager: object, kernel: str, **how: object) -> None:
        super().execute_managed_notebook(manager, kernel, kernel_manager_class=_Manager, **how)


class _Manager(AsyncKernelManager):
    def __init__(self, **traits: object):
        super().__init__(**traits)
        self.provisioner = _Provisioner(kernel_spec=self.kernel_spec, parent=self)


class _Provisioner(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **how: object) -> object:
        self.cwd = how.get("cwd") or os.getcwd()  # where papermill has gone
        server = _server(frozenset((k, v) for k, v in how["env"].items() if k != FILE))
        self.process = server.fork(cmd[3:], how["env"], str(self.cwd))
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class _Kernel(psutil.Process):
    """What jupyter_client knows of a process; its parent reaps it."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return None if self.is_running() else 0

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end at any moment
            super().send_signal(number)


class _Server:
    def __init__(self, env: dict[str, str]):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.link = ours.makefile("rw")
            command = [sys.executable, __file__]
            self.process = psutil.Popen(command, stdin=theirs, env=env, start_new_session=True)
        assert self.link.readline(), "the process that kernels are forked from has ended"

    def fork(self, arguments: list[str], env: dict[str, str], cwd: str) -> _Kernel:
        print(json.dumps([arguments, env, cwd]), file=self.link, flush=True)
        return _Kernel(int(self.link.readline()))


@functools.lru_cache(maxsize=1)
def _server(env: frozenset[tuple[str, str]]) -> _Server:
    return _Server(dict(env))


def serve() -> None:
    """Fork a kernel for every line that comes, until the process that sends them has ended."""
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # by which kernels see that this one is gone
    for name in IMPORTED:
        importlib.import_module(name)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # kernels let it through again
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
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
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv[1:] = arguments
    runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
