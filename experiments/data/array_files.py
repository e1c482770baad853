"""Arrays by name in files, mapped into memory rather than loaded.

    .npy          one array, its name is `embeddings`
    .npz          arrays by name, without pickle
    .safetensors  tensors by name, and text by name in the header
    .parquet      columns of numbers, of text, or of lists of numbers that are all of one length

What lies in the file as it is, is mapped there. Members of an .npz that are compressed, and columns
of a .parquet, are unpacked once, in a stream, to a file without a name in the temporary folder
(TMPDIR): it goes when nothing uses it any more.
"""

import errno
import json
import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, overload

import ml_dtypes
import numpy as np
import numpy.typing
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import safetensors

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")

_UNPACKED_ROWS = 4096
_UNPACKED_BYTES = 2**22
_TENSOR_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


class Strings(Sequence[str]):
    """Strings that lie one after another as UTF-8 in an array of bytes.

    Args:
      content: (byte) uint8.
      ends: (string) integers, where each ends in it.
    """

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self.content, self.ends = content, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """The string of a row, or those of a slice."""
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        begin = int(self.ends[row - 1]) if row else 0
        return bytes(self.content[begin : int(self.ends[row])]).decode("utf-8")


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
      arrays: by name; memory maps, which nothing can be written to.
      strings: by name, of a .parquet.
      metadata: text by name, of a .safetensors' header or a .parquet's schema.
    """

    arrays: dict[str, np.ndarray]
    strings: dict[str, Strings]
    metadata: dict[str, str]


def read(
    name: str,
    path: Path,
    *,
    suffixes: tuple[str, ...] = SUFFIXES,
    only: Collection[str] | None = None,
) -> Contents:
    """The arrays of a file.

    Args:
      name: of the argument that the file was given for.
      path: the file.
      suffixes: of the formats that may be.
      only: the names that are read; all where it is None.

    Raises:
      ValueError: the file is missing, of another format, damaged, or would need pickle.
    """
    if not path.is_file():
        raise ValueError(f"{name} must be a file, {path} is none")
    if path.suffix not in suffixes:
        formats = " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]]))
        raise ValueError(f"{name} must be {formats}, got {path.name}")
    reader = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".parquet": _read_parquet,
    }[path.suffix]
    try:
        return reader(path, only)
    except Exception as error:  # a broken file makes its reader raise nearly anything
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # the temporary folder is full: the file may be whole
        raise ValueError(f"{name} must be a whole file of plain arrays, {path}: {error}") from None


# --- maps -------------------------------------------------------------------------------------


def _map(
    file: IO[bytes],
    shape: Sequence[int],
    dtype: np.typing.DTypeLike,
    *,
    offset: int = 0,
    fortran: bool = False,
) -> np.ndarray:
    if 0 in shape:  # nothing cannot be mapped
        return np.empty(shape, dtype)
    order = "F" if fortran else "C"
    return np.memmap(file, dtype, "r", offset=offset, shape=tuple(shape), order=order)


def _map_npy(file: IO[bytes], *, begin: int, size: int) -> np.ndarray:
    """The array of an .npy that lies somewhere in an open file."""
    file.seek(begin)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"arrays must be of version 1 or 2 of their format, got {version}")
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded, they would need pickle")
    offset = file.tell()
    if offset + math.prod(shape) * dtype.itemsize > begin + size:
        raise ValueError(f"it has {size} bytes, too few for {shape} {dtype}")
    return _map(file, shape, dtype, offset=offset, fortran=fortran)


def _read_npy(path: Path, only: Collection[str] | None) -> Contents:
    del only
    with path.open("rb") as file:
        array = _map_npy(file, begin=0, size=path.stat().st_size)
    return Contents({"embeddings": array}, {}, {})


# --- .npz -------------------------------------------------------------------------------------


def _read_npz(path: Path, only: Collection[str] | None) -> Contents:
    arrays = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if only is None or name in only:
                arrays[name] = _read_member(file, archive, member)
    return Contents(arrays, {}, {})


def _read_member(file: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as packed, tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(packed, unpacked, _UNPACKED_BYTES)
            unpacked.flush()
            return _map_npy(unpacked, begin=0, size=member.file_size)
    with archive.open(member) as packed:  # which compares the checksum at the end
        while packed.read(_UNPACKED_BYTES):
            pass
    file.seek(member.header_offset + 26)
    lengths = file.read(4)  # of the name and of what follows it, little-endian
    begin = member.header_offset + 30 + sum(struct.unpack("<HH", lengths))
    return _map_npy(file, begin=begin, size=member.file_size)


# --- .safetensors -----------------------------------------------------------------------------


def _read_safetensors(path: Path, only: Collection[str] | None) -> Contents:
    with safetensors.safe_open(path, framework="numpy") as checked:
        names = [name for name in checked.keys() if only is None or name in only]
        metadata = dict(checked.metadata() or {})
    arrays = {}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name in names:
            tensor = header[name]
            if tensor["dtype"] not in _TENSOR_TYPES:
                raise ValueError(f"{name} has numbers of an unknown kind, {tensor['dtype']}")
            dtype = np.dtype(_TENSOR_TYPES[tensor["dtype"]])
            offset = 8 + length + tensor["data_offsets"][0]
            arrays[name] = _map(file, tensor["shape"], dtype, offset=offset)
    return Contents(arrays, {}, metadata)


# --- .parquet ---------------------------------------------------------------------------------


def _read_parquet(path: Path, only: Collection[str] | None) -> Contents:
    arrays, strings = {}, {}
    with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
        metadata = {
            key.decode("utf-8"): value.decode("utf-8")
            for key, value in (file.schema_arrow.metadata or {}).items()
        }
        for field in file.schema_arrow:
            if only is not None and field.name not in only:
                continue
            kind = field.type
            if pyarrow.types.is_dictionary(kind):
                kind = kind.value_type
            if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
                strings[field.name] = _unpack_strings(_columns(file, field.name))
            else:
                arrays[field.name] = _unpack_numbers(_columns(file, field.name), field)
    return Contents(arrays, strings, metadata)


def _columns(file: pyarrow.parquet.ParquetFile, name: str) -> Iterator[tuple[int, pyarrow.Array]]:
    """The parts of a column, each with the number of its first row."""
    first = 0
    for batch in file.iter_batches(_UNPACKED_ROWS, columns=[name]):
        column = batch.column(0)
        if column.null_count:
            row = first + column.is_null().to_pylist().index(True)
            raise ValueError(f"column {name} has nothing in row {row}")
        yield first, column
        first += len(column)


def _unpack_numbers(
    columns: Iterator[tuple[int, pyarrow.Array]], field: pyarrow.Field
) -> np.ndarray:
    """A column as (row), or as (row, number) where it is one of lists."""
    lists = any(
        kind(field.type)
        for kind in (
            pyarrow.types.is_list,
            pyarrow.types.is_large_list,
            pyarrow.types.is_fixed_size_list,
        )
    )
    value_type = field.type.value_type if lists else field.type
    if not (pyarrow.types.is_floating(value_type) or pyarrow.types.is_integer(value_type)):
        raise ValueError(f"column {field.name} must be numbers or lists of numbers: {field.type}")
    dtype = np.dtype(value_type.to_pandas_dtype())
    rows, width = 0, None
    with tempfile.TemporaryFile() as unpacked:
        for first, column in columns:
            rows = first + len(column)
            if lists:
                lengths = pyarrow.compute.call_function("list_value_length", [column]).to_numpy()
                width = int(lengths[0]) if width is None else width
                if (lengths != width).any():
                    row = int(np.argmax(lengths != width))
                    raise ValueError(
                        f"column {field.name} must have lists of one length, row 0 has {width} "
                        f"numbers and row {first + row} has {lengths[row]}"
                    )
                column = column.flatten()
                if column.null_count:
                    row = first + column.is_null().to_pylist().index(True) // width
                    raise ValueError(f"column {field.name} has lists with nothing in row {row}")
            values = column.to_numpy(zero_copy_only=False)
            unpacked.write(np.ascontiguousarray(values, dtype).data)
        unpacked.flush()
        return _map(unpacked, (rows, width or 0) if lists else (rows,), dtype)


def _unpack_strings(columns: Iterator[tuple[int, pyarrow.Array]]) -> Strings:
    ends, end = [np.zeros(0, np.int64)], 0
    with tempfile.TemporaryFile() as unpacked:
        for _, column in columns:
            parts = [text.encode("utf-8") for text in column.to_pylist()]
            unpacked.write(b"".join(parts))
            ends.append(end + np.cumsum([len(part) for part in parts], dtype=np.int64))
            end = int(ends[-1][-1])
        unpacked.flush()
        return Strings(_map(unpacked, (end,), np.uint8), np.concatenate(ends))
