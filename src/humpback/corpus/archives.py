"""Members of tar and zip archives, one after the other, never unpacked to disk.

In: the archive, and the reader of one member. Out: what that yields, with locations `file!member`. Tar is read forwards (so
also out of a pipe of gzip, zstd or xz), zip by its directory. A member inside an archive that is an archive itself is passed
over. Damage costs one row per member of a zip; a tar is read up to its damage. What a zip expands to is limited as `streams`
limits packed files.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, cast

from humpback.corpus.faults import Fault, rejected
from humpback.corpus.place import Place
from humpback.corpus.streams import Budget, Chunk, DamageError, Stream
from humpback.errors import InputError
from humpback.records import Document, Rejected

__all__ = ["ZIP_DAMAGE", "ReadMember", "read_tar", "read_zip"]

ReadMember = Callable[[Iterator[Chunk], Place, str], Iterator[Document | Rejected]]

_PIECE = 1 << 16
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_HEADER = 1 << 20
_MAX_FIELDS = 1_000
ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(ValueError, RuntimeError, IndexError, KeyError, OverflowError),  # what `zipfile` raises for wrong fields
)
_TAR_DAMAGE = (
    RecursionError,
    tarfile.TarError,
    ValueError,
    EOFError,
    OverflowError,
    IndexError,
    KeyError,
    OSError,
    struct.error,
)


class _Member(tarfile.TarInfo):
    """A member whose long names and other extended headers are bounded: `tarfile` reads each into memory at once."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > _MAX_HEADER:
            raise tarfile.ReadError(f"an extended header of {self.size:,} bytes, above {_MAX_HEADER:,}")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


def read_tar(stream: Stream, place: Place, read: ReadMember) -> Iterator[Document | Rejected]:
    """Yield the documents of the members of a tar archive in their order."""
    archive = None
    at = f"{place.name}@0"
    try:
        archive = tarfile.open(  # noqa: SIM115 (closed below)
            fileobj=cast(IO[bytes], stream), mode="r|", errors="surrogateescape", bufsize=_PIECE, tarinfo=_Member
        )
        while member := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # it would remember all it has seen
            if len(archive.pax_headers) > _MAX_FIELDS:
                raise tarfile.ReadError(f"its headers hold more than {_MAX_FIELDS:,} fields that are for all members")
            at = f"{place.name}@{member.offset}"
            name = _printable(member.name)
            if member.isdir() or _is_hidden(name):
                continue
            inside = place.inside(name)
            if member.issym() or member.islnk():
                yield rejected(inside.name, Fault("link", f"{inside.name} is a link inside an archive, not followed"))
            elif not member.isfile() or member.issparse():
                detail = f"{inside.name} is no regular file and not read; take it out of the archive"
                yield rejected(inside.name, Fault("unknown_kind", detail))
            else:
                yield from read(_tar_chunks(archive, member), inside, name)
    except InputError:
        raise
    except _TAR_DAMAGE as error:
        yield place.damaged(at, stream.damage or str(error) or type(error).__name__)
        return
    finally:
        if archive is not None:
            archive.close()
    stream.skip(1 << 62)  # to the end of the packed file, whose checksum comes last
    if stream.damage:
        yield place.damaged(at, stream.damage)


def read_zip(file: BinaryIO, place: Place, read: ReadMember) -> Iterator[Document | Rejected]:
    """Yield the documents of the members of a zip archive in the order of its directory."""
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_DAMAGE as error:
        yield place.damaged(place.name, str(error))
        return
    place.budget.packed = file.seek(0, 2)
    with archive:
        for member in archive.infolist():
            name = _printable(member.filename)
            if name.endswith("/") or _is_hidden(name):
                continue
            inside = place.inside(name)
            if member.flag_bits & 1:
                yield rejected(inside.name, Fault("encrypted", f"{inside.name} has a password; unpack it yourself"))
                continue
            yield from read(_zip_chunks(archive, member, place.budget), inside, name)
            if why := place.budget.overdrawn:
                yield place.damaged(place.name, why)
                return


def _zip_chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget) -> Iterator[Chunk]:
    try:
        with archive.open(member) as file:
            while data := file.read(_PIECE):
                budget.spend(len(data))
                yield Chunk(data, None)
    except ZIP_DAMAGE as error:
        raise DamageError(str(error) or type(error).__name__) from None


def _tar_chunks(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[Chunk]:
    file = archive.extractfile(member)
    found = 0
    try:
        while file and (data := file.read(_PIECE)):
            found += len(data)
            yield Chunk(data, None)
    except InputError:
        raise
    except _TAR_DAMAGE as error:
        raise DamageError(str(error) or type(error).__name__) from None
    if found < member.size:
        raise DamageError(f"{member.size:,} bytes are promised and {found:,} are there")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _printable(name: str) -> str:
    return name.removeprefix("./").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
