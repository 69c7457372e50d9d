"""Where a file lies: in the system's own configuration, or on a medium that anybody can write on any desk.

A boot partition is FAT so that people can put a configuration onto the card in any computer. Whoever holds the card for
a minute must not get a program run by that.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from edge.errors import ConfigError

SYSTEM = Path("/etc")
MOUNTS = Path("/proc/self/mountinfo")
_MEDIA = tuple(map(Path, ("/boot", "/media", "/mnt", "/run/media", "/run/mount", "/Volumes")))
# Without owners and rights of their own, or made to be carried about.
_CARRIED = {
    "vfat", "msdos", "exfat", "fat", "ntfs", "ntfs3", "fuse", "fuseblk", "hfs", "hfsplus", "apfs", "iso9660", "udf",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    point: Path
    kind: str


def mounts(table: str) -> list[Mount]:
    """What /proc/self/mountinfo says, in its order: of two at one place the later one is on top."""
    found = []
    for line in table.splitlines():
        ahead, separator, behind = line.partition(" - ")
        fields, kind = ahead.split(" "), behind.split(" ")[0]
        if separator and len(fields) >= 6 and kind:
            found.append(Mount(Path(_unescaped(fields[4])), kind))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mount_of(path: Path, table: list[Mount]) -> Mount | None:
    """The mount that `path`, which has no links in it, lies on."""
    best: Mount | None = None
    for mount in table:
        is_above = mount.point == path or mount.point in path.parents
        if is_above and (best is None or len(mount.point.parts) >= len(best.point.parts)):
            best = mount
    return best


def require_system(key: str, origin: str, *, system: Path | None = None, table: Path = MOUNTS) -> None:
    """Raises ConfigError unless `key` was set by a file of the system's configuration. `origin` is that file, or the
    name of the option that set it."""
    system = SYSTEM if system is None else system
    fault = _fault(Path(origin), system, table)
    if fault:
        raise ConfigError(
            f"{key} is refused: {fault}",
            "nothing is run and nothing is recorded",
            f"set it in a file below {system}, which only the administrator can write",
        )


def _fault(origin: Path, system: Path, table: Path) -> str:
    try:
        path = origin.resolve(strict=True)
        mode = path.stat().st_mode
        known = mounts(table.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, RuntimeError, ValueError):
        return f"what set it, {_shown(origin)}, is no file that can be looked at"
    name = _shown(path)
    medium = next((medium for medium in _MEDIA if medium in path.parents), None)
    if medium is not None:
        return f"{name} lies below {medium}, where boot and removable media are"
    mount = mount_of(path, known)
    if mount is None or mount.kind.removeprefix("fuse.") in _CARRIED:
        return f"{name} lies on a {mount.kind if mount else 'nameless'} file system, which is carried about"
    if system.resolve() not in path.parents:
        return f"{name} is no part of the system's configuration"
    if mode & stat.S_IWOTH:
        return f"{name} can be written by everybody"
    return ""


def _shown(path: Path) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in str(path)[:200])
