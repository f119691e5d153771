"""The members of a tar archive of someone else's: each once, and none larger than the archive can be."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

LARGEST_HEADER = 1 << 20
"""Bytes of a long name or other record about the next member: tarfile reads it into memory."""
MOST_GROWTH = 100
"""How many times its own size a compressed archive may come to, and 1 GiB more. Photographs do not shrink."""
_ABOUT_THE_NEXT = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Header(tarfile.TarInfo):
    """A header that is refused before what follows it is read."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _ABOUT_THE_NEXT and self.size > LARGEST_HEADER):
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]  # made to be overridden, says tarfile


def tar_members(tar: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """All members, each with the open archive that its content can be read from. Nothing is extracted to disk.

    Raises what tarfile and the decompressors raise, which on damaged archives can be any error.
    """
    most = MOST_GROWTH * tar.stat().st_size + (1 << 30)
    last = -1
    with tarfile.open(tar, tarinfo=_Header) as archive:
        while member := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # they would pile up, a kilobyte each
            yield archive, member
            end = member.offset_data + (0 if member.issparse() else member.size)
            if member.size < 0 or member.offset <= last or end > most:
                raise tarfile.ReadError(f"member '{member.name}' ends at byte {end}")
            last = member.offset
