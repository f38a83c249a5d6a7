"""Archives for tests: of any members, of sizes that they only declare, with headers of any content."""

from __future__ import annotations

import io
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path


def zip_of(path: Path, members: dict[str, bytes], **changed: dict[str, object]) -> Path:
    """A .zip; `changed` sets attributes of a member's entry, named as the member with _ for what no identifier has."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            for key, value in changed.get(re.sub(r"\W", "_", name), {}).items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return path


def tar_of(path: Path, members: dict[str, bytes], **changed: dict[str, object]) -> Path:
    """A .tar, as zip_of makes a .zip."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changed.get(re.sub(r"\W", "_", name), {}).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def hand_made_zip(path: Path, name: str, declared: int, packed: bytes, *, flags: int = 0, method: int = 8) -> Path:
    """A .zip of one member that declares `declared` bytes, whatever `packed` has; of any size, without a real one."""
    sizes = struct.pack("<QQ", declared, len(packed))
    extra = struct.pack("<HH", 1, len(sizes)) + sizes  # zip64
    common = struct.pack("<HHHHHIIIHH", 45, flags, method, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), len(extra))
    local = b"PK\3\4" + common + name.encode() + extra + packed
    central = b"PK\1\2" + struct.pack("<H", 45) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode() + extra
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


def packed_zeros(num_bytes: int) -> bytes:
    """A deflate stream of zeros, made of one piece again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * (num_bytes // 2**24) + b"\3\0"


def pax_header(content: bytes) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
