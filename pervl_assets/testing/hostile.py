"""Corrupted archives and images, which an asset must survive or refuse with a clear error.

Each function of archives changes the zip at the given path and returns the path. Pass a copy (the fixtures `data` and
`one_archive` are copies).
"""

import io
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from pervl_assets.demo.zips import write_zip

Corrupt = Callable[[Path], Path]

_DATE: Final = (2019, 6, 1, 0, 0, 0)
_LOCAL_HEADER: Final = 30
_CONTENT: Final = b"hostile"

NAMES: Final = (
    '![](/graphql?query=mutation{setConcurrencyLimit(concurrencyKey:"gpu",limit:0)})',
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "dog\x1b]8;;https://example.org\x07\x1b[2J\x9b31m",
    "photo\u202egpj.exe",
    "[link=https://example.org]cat[/link][/]",
    "%s %(name)d {0} {name!r}",
    "nul\x00 bell\x07",
    "a|b `c` *d* _e_ ~~f~~ &lt;",
    "x" * 5000,
)
"""Names that mean something to markdown, HTML, a terminal, rich, or a format string."""


# ---- refused: an `ArchiveError` when the archive is opened, before any work


def truncate(archive: Path, keep: float = 0.5) -> Path:
    """Truncate the file like an interrupted download. The share `keep` of its bytes is left."""
    with archive.open("r+b") as file:
        file.truncate(int(archive.stat().st_size * keep))
    return archive


def add_member(archive: Path, name: str, content: bytes = _CONTENT) -> Path:
    """Add a member with any name, even an invalid one."""
    info = zipfile.ZipInfo(date_time=_DATE)
    info.filename = name  # not as an argument, which would be sanitized
    return _append(archive, info, content)


def add_path_traversal(archive: Path) -> Path:
    """Add a member that would be unpacked outside of the target folder."""
    return add_member(archive, "../hostile.jpg")


def add_absolute_path(archive: Path) -> Path:
    """Add a member that would be unpacked to an absolute path."""
    return add_member(archive, "/tmp/hostile.jpg")  # noqa: S108 - nothing is ever unpacked there


def add_symlink(archive: Path, name: str = "link", target: str = "/etc") -> Path:
    """Add a member that is a symbolic link."""
    link = zipfile.ZipInfo(name, _DATE)
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16  # 3: Unix
    return _append(archive, link, target.encode())


def add_bomb(archive: Path, size: int = 8 << 20) -> Path:
    """Add a member of `size` zero bytes that is compressed to a thousandth."""
    bomb = zipfile.ZipInfo("bomb", _DATE)
    bomb.compress_type = zipfile.ZIP_DEFLATED
    return _append(archive, bomb, bytes(size))


def add_duplicate(archive: Path) -> Path:
    """Add a second member with the first file's name. Readers disagree which of the two counts."""
    return _append_named_like(archive, lambda name: name)


def add_case_twin(archive: Path) -> Path:
    """Add a member whose name differs from the first file's only in case: one file on some systems, two here."""
    return _append_named_like(archive, str.swapcase)


REFUSED: Final[Mapping[str, Corrupt]] = {
    "truncated": truncate,
    "path traversal": add_path_traversal,
    "absolute path": add_absolute_path,
    "symbolic link": add_symlink,
    "zip bomb": add_bomb,
    "duplicate": add_duplicate,
    "names equal but for case": add_case_twin,
}
"""Every function above that makes any archive unsafe, by name, for `pytest.mark.parametrize`."""


# ---- quarantined or missing: one member is lost, the others are used


def damage_member(archive: Path, member: str) -> Path:
    """Flip one bit in the middle of a member, so that its CRC no longer matches; KeyError if there is none."""
    with zipfile.ZipFile(archive) as opened:
        entry = opened.getinfo(member)
    content = bytearray(archive.read_bytes())
    lengths = struct.unpack_from("<HH", content, entry.header_offset + 26)  # of name and extra field, local header
    content[entry.header_offset + _LOCAL_HEADER + sum(lengths) + entry.compress_size // 2] ^= 1
    archive.write_bytes(content)
    return archive


def change_members(
    archive: Path,
    change: Callable[[str, bytes], bytes | None],
    *,
    password: str | None = None,
    new_password: str | None = None,
) -> Path:
    """Rewrite the archive: `change` maps a member's name and bytes to its new bytes, or to None to remove it.

    `password` opens the archive if it is encrypted; `new_password`, by default the same, encrypts the new one.
    """
    with zipfile.ZipFile(archive) as opened:
        opened.setpassword((password or "").encode())
        members = {name: change(name, opened.read(name)) for name in opened.namelist()}
    kept = ((name, content) for name, content in members.items() if content is not None)
    write_zip(archive, kept, new_password or password)
    return archive


def change_member(archive: Path, member: str, change: Callable[[bytes], bytes], *, password: str | None = None) -> Path:
    """Change one member and its CRC, e.g. `change_member(archive, "train2014/….jpg", cut_jpeg)`; KeyError if absent."""
    _require(archive, member)
    return change_members(archive, lambda name, old: change(old) if name == member else old, password=password)


def drop_members(archive: Path, *members: str, password: str | None = None) -> Path:
    """Remove members; KeyError if one is absent."""
    _require(archive, *members)
    return change_members(archive, lambda name, old: None if name in members else old, password=password)


# ---- passwords


def change_password(archive: Path, password: str, new_password: str) -> Path:
    """Encrypt an archive with another password, so that the old one no longer opens it."""
    return change_members(archive, lambda _, content: content, password=password, new_password=new_password)


def _append(archive: Path, info: zipfile.ZipInfo, content: bytes) -> Path:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.NameToInfo.pop(info.filename, None)  # avoids the warning about duplicates, which are intended here
        opened.writestr(info, content)
    return archive


def _append_named_like(archive: Path, rename: Callable[[str], str]) -> Path:
    with zipfile.ZipFile(archive) as opened:
        first = next(name for name in opened.namelist() if not name.endswith("/"))
    return add_member(archive, rename(first))


def _require(archive: Path, *members: str) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in members:
            opened.getinfo(member)


# ---- images, which are quarantined; for use with `change_member`


def cut_jpeg(jpeg: bytes, keep: float = 0.5) -> bytes:
    """Return the first part of a JPEG, like an interrupted copy: with its header and without its end."""
    return jpeg[: int(len(jpeg) * keep)]


def turn_grey(jpeg: bytes) -> bytes:
    """Return a grey JPEG, with one channel instead of three."""
    return _convert(jpeg, "L")


def turn_cmyk(jpeg: bytes) -> bytes:
    """Return a CMYK JPEG, which some readers silently decode to wrong colours."""
    return _convert(jpeg, "CMYK")


def shrink_image(image: bytes) -> bytes:
    """Return an image without its last row and column, e.g. a mask that no longer fits its frame."""
    with Image.open(io.BytesIO(image)) as opened:
        smaller = opened.crop((0, 0, opened.width - 1, opened.height - 1))
        return _save(smaller, opened.format)


def _convert(jpeg: bytes, mode: str) -> bytes:
    with Image.open(io.BytesIO(jpeg)) as opened:
        return _save(opened.convert(mode), "JPEG")


def _save(image: Image.Image, kind: str | None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
