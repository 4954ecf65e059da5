"""What a file is whose content is not of the kind of its name, from its first bytes."""

from pathlib import Path
from typing import Final, NamedTuple

RECOGNIZED_BYTES: Final = 512
"""Bytes at the beginning of a file that show its kind."""

_PAGE: Final = (b"<!doctype", b"<html", b"<head", b"<script", b"<!--", b"<?xml", b"<error")
_PACKED: Final = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x1f\x8b": "a gzip file, e.g. a tar.gz",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
}
_TAR_AT: Final = 257


class FileKind(NamedTuple):
    """A kind of file in words, and what to do about a file of it."""

    name: str
    advice: str


_EMPTY: Final = FileKind("empty", "The download or copy failed: fetch it again, and check the free space on the disk.")
_ZEROS: Final = FileKind(
    "full of zero bytes",
    "The download is not finished (its program reserved the space), or the disk lost the content: fetch it again.",
)
_WEB_PAGE: Final = FileKind(
    "a web page", "It is a log-in or error page saved under this name: log in, or accept the terms, and download again."
)
_POINTER: Final = FileKind(
    "a pointer of Git LFS or git-annex, not the file",
    "Fetch the content in that clone with `git lfs pull` or `git annex get`, or download the file itself.",
)


def recognize(start: bytes) -> FileKind | None:
    """Return the kind of a file that begins with these bytes, or None if it may be what it should be.

    Known are: nothing at all, zeros, web pages, pointers of Git LFS and git-annex, and packed files other than zip.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start or start.count(0) == len(start):
        return _ZEROS if start else _EMPTY
    if text.startswith(_PAGE):
        return _WEB_PAGE
    if text.startswith((b"version https://git-lfs", b"/annex/objects/", b"../.git/annex/")):
        return _POINTER
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
    if packed or start[_TAR_AT:].startswith(b"ustar"):
        name = packed or "a tar archive"
        return FileKind(name, "Unpack it, and put what it holds in its place.")
    return None


def recognize_file(path: Path) -> FileKind | None:
    """Return the kind of a file as `recognize` does; OSError if it cannot be read."""
    with path.open("rb") as file:
        return recognize(file.read(RECOGNIZED_BYTES))
