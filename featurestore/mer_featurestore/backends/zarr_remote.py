"""A read-only zarr-python store over our own storage, for compressed arrays that are not local."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

if TYPE_CHECKING:
    from mer_featurestore.storage import Storage


class StorageStore(Store):
    """Files below a path of a storage, for zarr-python to read."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, storage: "Storage", path: str) -> None:
        super().__init__(read_only=True)
        self.storage, self.path = storage, path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageStore) and (self.storage, self.path) == (other.storage, other.path)

    def __hash__(self) -> int:
        return hash((id(self.storage), self.path))

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a file or a range of it, None when there is no such file."""
        try:
            data = await asyncio.to_thread(self._read, f"{self.path}/{key}", byte_range)
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return several ranges at once."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Say whether there is such a file."""
        return await asyncio.to_thread(self.storage.exists, f"{self.path}/{key}")

    async def list(self) -> AsyncIterator[str]:
        """Yield every file."""
        for name in await asyncio.to_thread(self.storage.list, self.path):
            yield name.removeprefix(f"{self.path}/")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the files whose name begins with a prefix."""
        async for name in self.list():
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a folder."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        seen = set()
        async for name in self.list_prefix(folder):
            child = name.removeprefix(folder).split("/")[0]
            if child not in seen:
                seen.add(child)
                yield child

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: fragments are immutable."""
        raise NotImplementedError("this store is read-only")

    async def delete(self, key: str) -> None:
        """Refuse: fragments are immutable."""
        raise NotImplementedError("this store is read-only")

    def _read(self, name: str, part: Any) -> bytes:
        match part:
            case None:
                return self.storage.read(name)
            case RangeByteRequest(start, end):
                return self.storage.read(name, start, end - start)
            case OffsetByteRequest(offset):
                return self.storage.read(name, offset)
            case SuffixByteRequest(suffix):
                size = self.storage.list(name.rsplit("/", 1)[0])[name]
                return self.storage.read(name, max(0, size - suffix))
        raise TypeError(f"unknown byte range {part!r}")
