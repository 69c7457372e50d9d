"""adapters.provenance: whose file it is that names a program, by its place and by what it lies on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.adapters.provenance import Mount, mount_of, mounts, require_system
from edge.errors import ConfigError, ExitCode

KEY = "server.token_command"
ROOT_DIR = Path(__file__).parents[2]
# As Raspberry Pi OS has it, and what may come upon it.
PI = r"""
21 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw
25 21 0:24 / /run rw,nosuid,nodev shared:5 - tmpfs tmpfs rw,size=99M
31 21 179:1 / /boot/firmware rw,relatime shared:9 - vfat /dev/mmcblk0p1 rw,fmask=0022
40 21 8:1 / /media/pi/MY\040STICK rw,nosuid shared:11 master:3 - exfat /dev/sda1 rw
41 21 8:2 / /srv/usb rw - fuseblk /dev/sda2 rw,user_id=0
42 21 8:3 / /etc/edge.d rw - vfat /dev/sda3 rw
43 21 0:50 / /etc/over rw - vfat /dev/sda4 rw
44 43 0:51 / /etc/over rw - ext4 /dev/sda5 rw
"""


def refusal(origin: Path | str, **options: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        require_system(KEY, str(origin), **options)
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(caught.value).startswith(f"{KEY} is refused: ")
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "edge.toml").touch(0o644)
    return folder


def table(folder: Path, *mounted: tuple[Path, str]) -> Path:
    path = folder / "mountinfo"
    lines = ["21 1 179:2 / / rw - ext4 /dev/root rw"]
    lines += [
        f"{number} 21 8:1 / {str(point).replace(' ', chr(92) + '040')} rw shared:1 - {kind} /dev/sda1 rw"
        for number, (point, kind) in enumerate(mounted, 30)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/etc/edge/edge.toml", "ext4"), ("/boot/firmware/edge.toml", "vfat"), ("/boot/firmwares", "ext4"),
        ("/media/pi/MY STICK/edge.toml", "exfat"), ("/srv/usb/a/b/c", "fuseblk"), ("/etc/edge.d/x", "vfat"),
        ("/etc/edge.dx", "ext4"), ("/run/x", "tmpfs"), ("/etc/over/x", "ext4"), ("/", "ext4"),
    ],
)  # fmt: skip
def test_a_file_lies_on_the_mount_that_is_nearest_and_on_top(path: str, kind: str) -> None:
    found = mount_of(Path(path), mounts(PI))
    assert found is not None
    assert found.kind == kind


def test_what_is_no_mount_is_passed_over() -> None:
    assert mounts("\n\nnonsense\n1 2 3 - ext4\n1 2 3:4 / / rw -\n1 2 3:4 / /x rw - ext4 d rw") == [
        Mount(Path("/x"), "ext4")
    ]
    assert mount_of(Path("/y"), mounts("1 2 3:4 / /x rw - ext4 d rw")) is None


def test_this_machine_knows_where_this_file_lies() -> None:
    found = mount_of(Path(__file__).resolve(), mounts(Path("/proc/self/mountinfo").read_text()))
    assert found is not None
    assert found.point.stat().st_dev == Path(__file__).stat().st_dev


# --- the verdict -----------------------------------------------------------------------------------------------------


def test_a_file_of_the_system_may(etc: Path, tmp_path: Path) -> None:
    require_system(KEY, str(etc / "edge.toml"), system=etc, table=table(tmp_path))
    (etc / "edge").mkdir()
    (etc / "edge" / "edge.toml").touch()
    require_system(KEY, str(etc / "edge" / "edge.toml"), system=etc, table=table(tmp_path))


def test_one_that_lies_elsewhere_may_not(etc: Path, tmp_path: Path) -> None:
    other = tmp_path / "edge.toml"
    other.touch()
    assert "no part of the system's configuration" in refusal(other, system=etc, table=table(tmp_path))
    (tmp_path / "etcetera").mkdir()
    (tmp_path / "etcetera" / "edge.toml").touch()
    refusal(tmp_path / "etcetera" / "edge.toml", system=etc, table=table(tmp_path))
    (etc / "link.toml").symlink_to(other)
    assert str(other) in refusal(etc / "link.toml", system=etc, table=table(tmp_path))
    refusal(etc / ".." / "edge.toml", system=etc, table=table(tmp_path))
    assert "below /etc," in refusal(other)


@pytest.mark.parametrize(
    "kind", ["vfat", "exfat", "msdos", "fuseblk", "ntfs3", "iso9660", "udf", "hfsplus", "fuse", "fuse.exfat"]
)
def test_one_on_a_medium_that_is_carried_about_may_not(etc: Path, tmp_path: Path, kind: str) -> None:
    line = refusal(etc / "edge.toml", system=etc, table=table(tmp_path, (etc, kind)))
    assert f"a {kind} file system" in line


def test_an_unknown_file_system_may_not(etc: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert "nameless" in refusal(etc / "edge.toml", system=etc, table=empty)
    assert "is no file that can be looked at" in refusal(etc / "edge.toml", system=etc, table=tmp_path / "none")


@pytest.mark.parametrize("origin", ["--token-command", "option", "", "default"])
def test_what_no_file_has_set_may_not(origin: str, etc: Path) -> None:
    assert "is no file" in refusal(f"/nonexistent/{origin}", system=etc)


def test_one_that_everybody_may_write_may_not(etc: Path, tmp_path: Path) -> None:
    (etc / "edge.toml").chmod(0o666)
    assert "written by everybody" in refusal(etc / "edge.toml", system=etc, table=table(tmp_path))


@pytest.mark.parametrize("place", ["/boot", "/boot/firmware", "/media/pi/stick", "/mnt", "/run/media/pi/stick"])
def test_media_are_known_by_their_place_whatever_lies_there(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(place, "edge.toml")
    plain = tmp_path / "plain"
    plain.touch()
    stat = plain.stat()
    monkeypatch.setattr(Path, "resolve", lambda self, strict=False: self)
    monkeypatch.setattr(Path, "stat", lambda self: stat)
    assert "boot and removable media" in refusal(path, system=Path("/"), table=table(tmp_path))


# --- the real thing --------------------------------------------------------------------------------------------------


# FAT is what boot partitions and sticks have; a kernel without it has at least what NTFS needs.
STICKS = {"vfat": ("mkfs.vfat",), "ntfs-3g": ("mkntfs", "-F", "-Q", "-q")}


def stick(folder: Path) -> tuple[Path, str]:
    """The image of a stick, and the type that mounts it here."""
    image, mount = folder / "image", folder / "probe"
    mount.mkdir()
    why = []
    for kind, make in STICKS.items():
        program = shutil.which(make[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if program is None:
            why.append(f"needs {make[0]}: install dosfstools and ntfs-3g")
            continue
        image.write_bytes(b"")
        os.truncate(image, 4 << 20)
        subprocess.run([program, *make[1:], image], check=True, capture_output=True)
        mounting = subprocess.run(["mount", "-t", kind, "-o", "loop", image, mount], capture_output=True, text=True)
        if mounting.returncode == 0:
            subprocess.run(["umount", mount], check=True)
            return image, kind
        why.append(mounting.stderr.strip())
    pytest.skip("; ".join(why))


@contextmanager
def mounted(folder: Path, mount: Path) -> Iterator[None]:
    """A stick on `mount`."""
    image, kind = stick(folder)
    subprocess.run(["mount", "-t", kind, "-o", "loop", image, mount], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.root
def test_a_real_stick_is_refused_also_behind_a_link_and_a_bind_mount(etc: Path, tmp_path: Path) -> None:
    mount = tmp_path / "somewhere else"
    mount.mkdir()
    with mounted(tmp_path, mount):
        (mount / "edge.toml").write_text("")
        assert "file system, which is carried about" in refusal(mount / "edge.toml", system=tmp_path)
        (etc / "link.toml").symlink_to(mount / "edge.toml")
        assert "file system, which is carried about" in refusal(etc / "link.toml", system=etc)
        bound = etc / "edge"
        bound.mkdir()
        subprocess.run(["mount", "--bind", mount, bound], check=True)
        try:
            assert "file system, which is carried about" in refusal(bound / "edge.toml", system=etc)
        finally:
            subprocess.run(["umount", bound], check=True)
        require_system(KEY, str(etc / "edge.toml"), system=etc)


WHOLE = f"""
set -e
export PYTHONPATH={ROOT_DIR}
mount --make-rprivate /
mount -t tmpfs private /etc/skel
printf '%s\\n' '[server]' 'url = "https://host"' 'token_command = "/bin/echo hunter2"' > edge.toml
cp edge.toml /etc/skel/edge.toml
{sys.executable} -m edge check-config /etc/skel/edge.toml
echo "system: $?"
mkdir stick
mount -t "$1" -o loop image stick
trap 'umount -l /etc/skel/boot; umount stick' EXIT  # else its file system's daemon keeps this namespace, for ever
cp edge.toml stick/
mkdir /etc/skel/boot
mount --bind stick /etc/skel/boot
for file in edge.toml stick/edge.toml /etc/skel/boot/edge.toml; do
    for command in "check-config" "record --source tone:440 --seconds 1 --state state --config"; do
        code=0
        {sys.executable} -m edge $command $file 2>&1 || code=$?
        echo "$file: $code"
    done
done
"""


@pytest.mark.root
def test_the_commands_refuse_a_program_that_a_stick_names(tmp_path: Path) -> None:
    if not Path("/etc/skel").is_dir():
        pytest.skip("needs /etc/skel")
    _, kind = stick(tmp_path)
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", WHOLE, "sh", kind], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert "system: 0" in lines
    assert 'token_command = "/bin/echo ***"' in run.stdout
    assert "hunter2" not in run.stdout + run.stderr
    for file in ("edge.toml", "stick/edge.toml", "/etc/skel/boot/edge.toml"):
        assert lines.count(f"{file}: 2") == 2, lines
    refusals = [line for line in lines if "server.token_command is refused: " in line]
    assert len(refusals) == 6, lines
    assert sum("file system, which is carried about" in line for line in refusals) == 4
