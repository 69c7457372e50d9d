"""A disk whose every request is logged: image file -> qemu-storage-daemon (blklogwrites) -> FUSE -> loop -> real ext4.

The loop device hands requests of one control group to the file one after the other, so a flush in the log covers
exactly the writes before it. It has no FUA: the kernel turns FUA into a flush that follows.

The daemon has a mount namespace of its own, in which alone its FUSE file can be seen: were it in the one with the ext4
mount, and the last there to die, it would unmount a disk whose requests it has to answer itself, and hang for ever.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.power.logwrites import copy_sparse

PACKAGES = "qemu-system-common e2fsprogs"
# As on a Pi's card. mkfs takes 1024 for small disks, at which the journal costs a quarter: bytes at the device would
# look far better than they are.
BLOCK = "4096"
# No background initialisation of inode tables: it would be noise in the log.
OPTIONS = "noatime,noinit_itable"
_SHM, _SHM_NAME = "/dev/shm", "edge-power"
# linux/loop.h: take a free device; give it a file and let go of it with the last user.
_GET_FREE, _CONFIGURE, _AUTOCLEAR = 0x4C82, 0x4C0A, 4
_CONFIG = struct.Struct("=II 52x I 176x 64x")  # loop_config: fd, block size, loop_info64 with its lo_flags, reserved
_INSIDE = "EDGE_POWER_INSIDE"


class DiskError(Exception):
    """A step of the rig failed; the text is that step's complaint."""


@dataclass(frozen=True, slots=True)
class Disk:
    """`base`: the image at the log's beginning; `live`: at its end; `log`: what lies between; `folder`: the mount."""

    base: Path
    live: Path
    log: Path
    folder: Path


def call(*command: str | Path) -> None:
    """Run a command. Raises DiskError with its complaint."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise DiskError(f"{command[0]} is missing: apt-get install {PACKAGES}") from error
    except subprocess.TimeoutExpired as error:
        raise DiskError(f"{' '.join(map(str, command))} hangs") from error
    if done.returncode:
        raise DiskError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()}")


def _attach(image: Path) -> tuple[str, int]:
    """A loop device on an image: its name, and an open descriptor. It is let go of with its last user.

    By hand, because mount(8) asks every loop device of the machine for its file, and waits for those that hang; and
    because it looks up the file's name, which for an export means nothing here.
    """
    control, file = os.open("/dev/loop-control", os.O_RDWR), os.open(image, os.O_RDWR)
    try:
        while True:
            name = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = os.open(name, os.O_RDWR)
            try:
                fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(file, 0, _AUTOCLEAR))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # else somebody was faster
                    raise
            else:
                return name, device
    except OSError as error:
        raise DiskError(f"loop device on {image}: {error}") from error
    finally:
        os.close(control)
        os.close(file)


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """An ext4 image on a folder, by a loop device that goes with the mount. Mounting replays the journal."""
    folder.mkdir(exist_ok=True)
    device, descriptor = _attach(image)
    try:
        call("mount", "-t", "ext4", "-o", OPTIONS, device, folder)
    finally:
        os.close(descriptor)
    try:
        yield folder
    finally:
        try:
            call("umount", folder)
        except DiskError:
            # Somebody's process still works in it. Take the name away, so that nothing is left behind, and complain.
            call("umount", "--lazy", folder)
            raise


@contextmanager
def _exported(image: Path, log: Path, export: Path) -> Iterator[Path]:
    """A file that is the image, everything that is written there going into the log as well."""
    log.touch()
    export.touch()
    daemon = [
        # The daemon ends with the rig, whatever ends that one.
        *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "qemu-storage-daemon"),
        *("--blockdev", f"driver=file,node-name=disk,filename={image},cache.no-flush=on"),
        *("--blockdev", f"driver=file,node-name=log,filename={log},cache.no-flush=on"),
        *("--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log"),
        *("--export", f"type=fuse,id=export,node-name=logged,mountpoint={export},writable=on"),
        # Options are carried out in their order: once the monitor greets, the export stands.
        *("--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor"),
    ]
    try:
        process = subprocess.Popen(daemon, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError as error:
        raise DiskError("setpriv is missing: apt-get install util-linux") from error
    with process:
        assert process.stdout is not None
        try:
            greeting = process.stdout.readline().decode(errors="replace").strip()
            if '"QMP"' not in greeting:
                raise DiskError(f"qemu-storage-daemon ({PACKAGES}): {greeting or 'ended without a word'}")
            yield Path(f"/proc/{process.pid}/root{export}")
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def logged_disk(scratch: Path, size: int) -> Iterator[Disk]:
    """A new ext4 disk of `size` bytes, mounted at `scratch/disk`. Base, live image and log stay in `scratch`.

    Call it in the main thread: the daemon dies with the thread that started it. Raises DiskError.
    """
    disk = Disk(scratch / "base.img", scratch / "live.img", scratch / "log", scratch / "disk")
    with disk.base.open("wb") as file:
        file.truncate(size)
    call("mkfs.ext4", "-q", "-b", BLOCK, "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", disk.base)
    copy_sparse(disk.base, disk.live)
    with _exported(disk.live, disk.log, scratch / "export") as export, mounted(export, disk.folder):
        yield disk


def enter_namespaces(module: str, arguments: list[str]) -> None:
    """Start this program again as `python -m module` in mount and process namespaces of its own, unless it is there.

    Whatever ends the program, SIGKILL too, its processes, mounts, loop devices and images in memory go with it.
    """
    if os.environ.get(_INSIDE) == "1":
        return
    namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*namespaces, sys.executable, "-m", module, *arguments]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder in memory, where fsync of the images costs nothing. Inside the namespaces only."""
    if f"{_SHM_NAME} {_SHM} " not in Path("/proc/mounts").read_text():
        # Our own, over everybody's: it goes with the namespace, and not even an empty folder stays.
        call("mount", "-t", "tmpfs", "-o", "mode=1777", _SHM_NAME, _SHM)
    with tempfile.TemporaryDirectory(prefix="power-", dir=_SHM, ignore_cleanup_errors=True) as name:
        yield Path(name)
