"""Read zip archives as torch.save writes them, and no others.

Readers of zip files disagree about archives with bytes around them, two directories, or headers that contradict each
other: what one reader checks is not what another loads. Here an archive has one directory at the very end of the file,
and its members follow each other from the first byte to the directory, stored as they are:

    local header, name, padding to an alignment, data, descriptor      once for each member
    row, name                                                          once for each member, in the same order
    zip64 record, locator, end record

Sizes and offsets from 4 GiB on stand in extra fields, as torch lays them out. Every other archive is a ValueError.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from io import BufferedReader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAGIC = b"PK\x03\x04"
"""The first bytes of an archive that has members."""
MOST_16, MOST_32 = 0xFFFF, 0xFFFFFFFF
"""Numbers that stand for a larger one elsewhere."""
DESCRIBED, UTF_8 = 0x0008, 0x0800
"""The flags that a member may have: its sizes are in a descriptor behind its data, and its name is UTF-8."""

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_ROW = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True, slots=True)
class Member:
    """One row of an archive's directory."""

    name: str
    stamp: tuple[int, ...]
    """Version, flags, compression, time and date, which the local header repeats."""
    crc: int
    packed: int
    size: int
    offset: int
    """The first byte of the local header."""


@dataclass(frozen=True, slots=True)
class Span:
    """The place of a member's data in the file."""

    start: int
    size: int
    crc: int | None
    """None where torch was told to write no checksums."""


def read_directory(file: BufferedReader) -> list[Member]:
    """The rows of the one directory, in its order; nothing is known yet of what they point to."""
    start, size, count = _find_directory(file)
    rows = _read(file, start, size)
    members, position = [], 0
    for _ in range(count):
        if position + _ROW.size > size:
            raise ValueError("its directory is shorter than its number of members says")
        signature, _made, *stamp, crc, packed, whole, name_size, extra_size, comment, disk, _i, _e, offset = (
            _ROW.unpack_from(rows, position)
        )
        name_end = position + _ROW.size + name_size
        position_after = name_end + extra_size
        if signature != b"PK\x01\x02" or comment or disk or position_after > size:
            raise ValueError("its directory is damaged, or says what torch.save does not")
        name = rows[name_end - name_size : name_end].decode()
        wide = [number for number in (whole, packed, offset) if number == MOST_32]
        extra = rows[name_end:position_after]
        numbers = struct.unpack(f"<{len(wide)}Q", extra[4:]) if len(extra) == 4 + 8 * len(wide) else ()
        if extra != _zip64(*numbers) or len(numbers) != len(wide) or min(numbers, default=MOST_32) < MOST_32:
            raise ValueError(f"its directory has extra fields for {name!r} that torch.save does not write")
        rest = iter(numbers)
        whole, packed, offset = (next(rest) if number == MOST_32 else number for number in (whole, packed, offset))
        members.append(Member(name, tuple(stamp), crc, packed, whole, offset))
        position = position_after
    if position != size:
        raise ValueError("its directory is longer than its number of members says")
    return members


def _find_directory(file: BufferedReader) -> tuple[int, int, int]:
    """The directory's first byte, its size in bytes, and its number of rows."""
    end = file.seek(0, os.SEEK_END) - _END.size
    signature, *fields, comment = _END.unpack(_read(file, end, _END.size))
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("its archive does not end with its directory: it was cut, or something follows it")
    place = end - _LOCATOR.size
    locator = _LOCATOR.unpack(_read(file, place, _LOCATOR.size))
    if locator[0] == b"PK\x06\x07":
        end = place - _END64.size
        head, length, _made, _needed, *wide = _END64.unpack(_read(file, end, _END64.size))
        most = (MOST_16,) * 4 + (MOST_32,) * 2
        shortened = [min(number, limit) for number, limit in zip(wide, most, strict=True)]
        if (head, length, locator[1:]) != (b"PK\x06\x06", _END64.size - 12, (0, end, 1)) or fields != shortened:
            raise ValueError("its archive ends in two ways that contradict each other")
        fields = wide
    disk, first_disk, count, whole_count, size, start = fields
    if disk or first_disk or count != whole_count or start + size != end:
        raise ValueError("its directory is not where its archive says")
    return start, size, count


def locate_members(file: BufferedReader, members: list[Member]) -> dict[str, Span]:
    """The data's place of each member, by its name in the archive's one folder; ValueError where any is in doubt."""
    position, spans, names = 0, {}, set[str]()
    checked = any(member.crc for member in members)  # told to leave checksums out, torch writes zeros
    folder = members[0].name.partition("/")[0] if members else ""
    for member in members:
        top, _, name = member.name.partition("/")
        _version, flags, method, *_ = member.stamp
        if top != folder or _is_strange(member.name, flags):
            raise ValueError(f"its member {member.name!r} has no name that torch.save gives")
        if member.name.casefold() in names:
            raise ValueError(f"it has two members that are called {member.name!r}")
        if method or flags & ~(DESCRIBED | UTF_8) or member.packed != member.size:
            raise ValueError(f"its member {member.name!r} is compressed or encrypted")
        if member.offset != position:
            raise ValueError(f"its member {member.name!r} does not begin where the one before it ends")
        # Only the padding may be of any length: everything else follows from the directory.
        extra_size = int.from_bytes(_read(file, position + _LOCAL.size - 2, 2), "little")
        start = position + _LOCAL.size + len(member.name.encode()) + extra_size
        head, tail = _local_header(member, extra_size), _descriptor(member)
        if _read(file, position, start - position) != head or _read(file, start + member.size, len(tail)) != tail:
            raise ValueError(f"its directory and the headers of its member {member.name!r} contradict each other")
        spans[name] = Span(start, member.size, member.crc if checked else None)
        names.add(member.name.casefold())
        position = start + member.size + len(tail)
    if position != _find_directory(file)[0]:
        raise ValueError("something lies between its members and its directory")
    return spans


def _is_strange(name: str, flags: int) -> bool:
    """Whether readers may take the name for another one, or for a path outside of the archive."""
    readable = name.isprintable() and "\\" not in name and (name.isascii() or bool(flags & UTF_8))
    return not readable or not {"", ".", ".."}.isdisjoint(name.split("/"))


def _local_header(member: Member, extra_size: int) -> bytes:
    """The local header, name, extra field and padding that torch writes for a member."""
    numbers = (0, 0, 0) if member.stamp[1] & DESCRIBED else (member.crc, member.packed, member.size)
    name, zip64 = member.name.encode(), _local_zip64(member)
    padding = extra_size - len(zip64) - 4
    fill = b"FB" + struct.pack("<H", padding) + b"Z" * padding if padding >= 0 else b""
    return _LOCAL.pack(MAGIC, *member.stamp, *numbers, len(name), extra_size) + name + zip64 + fill


def _local_zip64(member: Member) -> bytes:
    """The extra field of a local header for large sizes and offsets: torch writes 0 for the packed size there."""
    sizes = (member.size, 0) if member.size >= MOST_32 else ()
    return _zip64(*sizes, *((member.offset,) if member.offset >= MOST_32 else ()))


def _zip64(*numbers: int) -> bytes:
    """The extra field that holds numbers from 4 GiB on; nothing where there are none."""
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def _descriptor(member: Member) -> bytes:
    """The descriptor that torch writes behind a member's data."""
    if not member.stamp[1] & DESCRIBED:
        return b""
    form = "<4sI2Q" if _local_zip64(member) else "<4s3I"
    return struct.pack(form, b"PK\x07\x08", member.crc, member.packed, member.size)


def read_member(file: BufferedReader, span: Span) -> bytearray:
    """The data of a member; ValueError where they are damaged."""
    data = bytearray(span.size)
    fill_from_member(file, span, data)
    return data


def fill_from_member(file: BufferedReader, span: Span, buffer: WriteableBuffer) -> None:
    """Read the data of a member into a buffer of their size; ValueError where they are damaged."""
    file.seek(span.start)
    if file.readinto(buffer) != span.size:
        raise ValueError("it is shorter than its directory says")
    if span.crc is not None and zlib.crc32(buffer) != span.crc:
        raise ValueError("it is damaged: the checksum of one of its members is another")


def _read(file: BufferedReader, position: int, size: int) -> bytes:
    if position < 0:
        raise ValueError("it is too short for an archive")
    file.seek(position)
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it is shorter than its directory says")
    return data
