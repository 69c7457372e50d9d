"""Network namespaces with names of our own: made, entered, removed, also those that a killed run left behind.

A name says who made it (`edge-PID-START-N-device`): whoever makes the next one removes those whose maker is gone. Needs
root.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

RUN = Path("/run/netns")
ETC = Path("/etc/netns")
_CLONE_NEWNET = 0x40000000
_NAME = re.compile(r"edge-(\d+)-(\d+)-\d+-\w+")
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


class NetworkError(Exception):
    """A command that builds or changes the network failed; the text carries what it said."""


def run(command: Sequence[str], text: str = "") -> str:
    """A command, with `text` on its stdin; its stdout. Raises NetworkError."""
    done = subprocess.run(list(command), input=text, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip() or text}")
    return done.stdout


def ip(namespace: str, batch: str) -> None:
    """Lines for `ip -batch`, inside `namespace`; the first that fails ends it."""
    run(["ip", "-netns", namespace, "-batch", "-"], batch)


def _started(pid: int) -> str:
    """When a process began, in ticks since the boot: with it a pid is unique. Empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def fresh_names(*roles: str) -> list[str]:
    """One name for each role, which nobody else has."""
    number = next(_numbers)
    return [f"edge-{os.getpid()}-{_started(os.getpid())}-{number}-{role}" for role in roles]


def add(name: str, resolver: str = "") -> None:
    """Make it, with its loopback up. `resolver`: its own /etc/resolv.conf, for what `ip netns exec` starts."""
    if resolver:
        (ETC / name).mkdir(parents=True, exist_ok=True)
        (ETC / name / "resolv.conf").write_text(resolver)
    run(["ip", "netns", "add", name])
    ip(name, "link set lo up\n")


def remove(name: str) -> None:
    """All of it; nothing happens where it does not exist."""
    if (RUN / name).exists():
        with contextlib.suppress(NetworkError):
            run(["ip", "netns", "delete", name])
    shutil.rmtree(ETC / name, ignore_errors=True)


def ours() -> list[str]:
    """The names of all that any process made and that are still there."""
    found = {path.name for folder in (RUN, ETC) if folder.is_dir() for path in folder.iterdir()}
    return sorted(name for name in found if _NAME.fullmatch(name))


def sweep() -> list[str]:
    """Remove those whose maker is gone; their names."""
    gone = []
    for name in ours():
        match = _NAME.fullmatch(name)
        if match and _started(int(match[1])) != match[2]:
            remove(name)
            gone.append(name)
    return gone


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread is in the namespace; sockets and tun devices opened meanwhile stay there. Not across an `await`."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(RUN / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(here)
    finally:
        os.close(here)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def socket_in(name: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of the namespace."""
    with inside(name):
        return socket.socket(family, kind, protocol)


def sysctl(name: str, settings: dict[str, str]) -> None:
    """Set keys below /proc/sys/net of the namespace, such as `ipv4/ip_forward`; those of a part that this kernel has
    not loaded are passed over."""
    with inside(name):
        for key, value in settings.items():
            path = Path("/proc/sys/net", key)
            if path.parent.is_dir():
                path.write_text(value)


def command_in(name: str, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in the namespace, with its /etc/resolv.conf."""
    return ["ip", "netns", "exec", name, *command]
