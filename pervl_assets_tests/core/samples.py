"""Small pictures, archives and plans, made for one test each."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pervl_assets.trees.build import Output, Quarantined, Rendered, RenderTask, TreePlan

PALETTE = [value for index in range(256) for value in ((index * 67) % 256, (index * 29) % 256, (index * 5) % 256)]


def draw_picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    channels = [(x * 7 + y * 3 + seed * 31) % 256, (x * y + 40 + seed) % 256, (x * x // 3 + y * 11) % 256]
    return np.stack(channels, -1).astype(np.uint8)


def save_jpeg(pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def repeat_scans(times: int, *, progressive: bool) -> bytes:
    """A JPEG of 16 x 16 pixels whose last scan is repeated; one that is not progressive has a scan for one colour."""
    data = save_jpeg(draw_picture(16, 16), progressive=progressive)
    if not progressive:
        at = data.index(b"\xff\xda")
        data = data[: at + 2] + b"\0\x08\x01" + data[at + 5 : at + 7] + data[at + 11 :]
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * times + data[-2:]


def save_mask(indices: np.ndarray) -> bytes:
    image = Image.fromarray(indices.astype(np.uint8)).convert("L")
    image.putpalette(PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2019, 6, 1, 0, 0, 0)), data, method)
    return path


class _Keys:
    """ZipCrypto's key schedule, written from the format's description (APPNOTE, section 6.1)."""

    def __init__(self, password: bytes) -> None:
        self.keys = [0x12345678, 0x23456789, 0x34567890]
        for byte in password:
            self.update(byte)

    def update(self, byte: int) -> None:
        def crc(value: int, byte: int) -> int:
            return (zlib.crc32(bytes([byte]), value ^ 0xFFFFFFFF) ^ 0xFFFFFFFF) & 0xFFFFFFFF

        self.keys[0] = crc(self.keys[0], byte)
        self.keys[1] = ((self.keys[1] + (self.keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        self.keys[2] = crc(self.keys[2], self.keys[1] >> 24)

    def stream(self) -> int:
        word = (self.keys[2] | 2) & 0xFFFF
        return ((word * (word ^ 1)) >> 8) & 0xFF

    def encrypt(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            out.append(byte ^ self.stream())
            self.update(byte)
        return bytes(out)

    def decrypt(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            out.append(byte ^ self.stream())
            self.update(out[-1])
        return bytes(out)


def opens_by_check_byte(password: str, header: bytes, check: int) -> bool:
    """Return whether a password passes the one byte by which ZipCrypto lets most wrong ones be found."""
    return _Keys(password.encode()).decrypt(header)[-1] == check


def write_encrypted_zip(path: Path, members: Mapping[str, bytes], password: str, *, deflate: bool = True) -> Path:
    """Write a ZipCrypto archive, byte by byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body, directory = bytearray(), bytearray()
    for name, data in members.items():
        crc, raw = zlib.crc32(data), data
        if deflate:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            raw = packer.compress(data) + packer.flush()
        header = bytes(range(11)) + bytes([crc >> 24])
        stored = _Keys(password.encode()).encrypt(header + raw)
        common = struct.pack("<HHHHHIIIHH", 20, 1, 8 * deflate, 0, 0x4EC1, crc, len(stored), len(data), len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += name.encode()
        body += b"PK\3\4" + common + name.encode() + stored
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(bytes(body + directory) + end)
    return path


def plan_copies(names: list[str], version: int = 1, *, listing: bool = False) -> TreePlan:
    """Plan a tree of one output a member: its bytes in capitals."""
    jobs = tuple(RenderTask((name,), (Output(f"class/{name}", name.split(".")[0], "capitals"),)) for name in names)
    return TreePlan("tree", jobs, render_capitals, version, list_files if listing else None)


def render_capitals(job: RenderTask, blobs: list[bytes]) -> Iterator[Rendered | Quarantined]:
    for output in job.outputs:
        if blobs[0].startswith(b"bad"):
            yield Quarantined(output, "it is bad")
        else:
            yield Rendered(output, blobs[0].upper())


def list_files(ledger: object) -> dict[str, bytes]:
    return {"listing.txt": "\n".join(ledger.filter(status="written")["path"]).encode()}


def photograph(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and modification time of every file below a folder."""
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
