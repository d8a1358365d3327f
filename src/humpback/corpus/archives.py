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
from humpback.corpus.streams import FREE_BYTES, MAX_EXPANSION, Chunk, DamageError, Stream
from humpback.errors import InputError
from humpback.records import Document, Rejected

__all__ = ["ZIP_DAMAGE", "ReadMember", "read_tar", "read_zip"]

ReadMember = Callable[[Iterator[Chunk], Place, str], Iterator[Document | Rejected]]

_PIECE = 1 << 16
ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(ValueError, RuntimeError, IndexError, KeyError, OverflowError),  # what `zipfile` raises for wrong fields
)
_TAR_DAMAGE = (tarfile.TarError, ValueError, EOFError, OverflowError, IndexError, KeyError, OSError, struct.error)


def read_tar(stream: Stream, place: Place, read: ReadMember) -> Iterator[Document | Rejected]:
    """Yield the documents of the members of a tar archive in their order."""
    archive = None
    at = f"{place.name}@0"
    try:
        archive = tarfile.open(  # noqa: SIM115 (closed below)
            fileobj=cast(IO[bytes], stream), mode="r|", errors="surrogateescape", bufsize=_PIECE
        )
        while member := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # it would remember all it has seen
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
    packed = max(1, file.seek(0, 2))
    given = 0
    with archive:
        for member in archive.infolist():
            name = _printable(member.filename)
            if name.endswith("/") or _is_hidden(name):
                continue
            inside = place.inside(name)
            if member.flag_bits & 1:
                yield rejected(inside.name, Fault("encrypted", f"{inside.name} has a password; unpack it yourself"))
                continue
            found = _ZipMember(archive, member)
            yield from read(found.chunks(), inside, name)
            given += found.given
            if given > FREE_BYTES and given > MAX_EXPANSION * packed:
                why = f"it expands to more than {MAX_EXPANSION} times its size after {given:,} bytes, like a bomb"
                yield place.damaged(place.name, why)
                return


class _ZipMember:
    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self.given = 0
        self._archive = archive
        self._member = member

    def chunks(self) -> Iterator[Chunk]:
        try:
            with self._archive.open(self._member) as file:
                while data := file.read(_PIECE):
                    self.given += len(data)
                    yield Chunk(data, None)
                    if self.given > FREE_BYTES and self.given > MAX_EXPANSION * max(1, self._member.compress_size):
                        raise DamageError(f"it expands to more than {MAX_EXPANSION} times its size, like a bomb")
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
