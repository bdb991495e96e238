"""Reads pickles of numpy arrays and plain containers without executing any code of theirs.

A pickle is a program: it may name any importable function and call it. Here every name leads to a stand-in
of our own, or nowhere. Not even numpy's own unpickling runs, because a crafted dtype could make it take bytes
for objects: what a pickle says about an array is checked, and the array is then made from its bytes.
"""

import io
import math
import pickle  # the safe subset below is the point of this module
import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput

_SIMPLE_DTYPE: Final = re.compile(r"[biufcSU?][0-9]*")
_MEMO_WRITES = frozenset([b"p", b"q", b"r"])  # PUT, BINPUT, LONG_BINPUT
_OPCODES = {op.code: op for op in pickletools.opcodes}
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def load_pickle(path: Path) -> Any:
    """Return what a pickle file holds.

    Args:
        path: The file, pickle protocol 0 to 5, written with numpy 1 or 2.

    Returns:
        Dicts, lists, tuples, sets, strings, bytes, numbers, None, and numpy arrays (read-only views of the
        file's bytes; arrays of objects hold the same kinds of things).

    Raises:
        BadInput: It names anything but numpy arrays and plain containers (the message says what), or is no
            whole pickle.
    """
    try:
        with path.open("rb") as file:
            return read_pickle(file, str(path))
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}", "check the path") from None
    except IsADirectoryError:
        raise BadInput(f"{path} is a folder", "name the pickle in it") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "check its permissions") from None


def read_pickle(file: IO[bytes], where: str) -> Any:
    """Return what a pickle in an open, seekable file holds, from where it stands; see `load_pickle`."""
    try:
        start = file.tell()
        _check_memo(file)
        file.seek(start)
        return _finished(_Unpickler(file, where).load())
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - a hostile pickle can make the unpickler raise anything
        raise BadInput(f"{where} is not a pickle of arrays and plain containers: {error}", _REMEDY) from None


_REMEDY = "only numpy arrays, numbers, text and plain containers are read; save it as those"


class _Function:
    """What a name in a pickle leads to: immutable, so that no pickle can leave anything behind in it."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise TypeError(f"a pickle may not set {name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise TypeError("a pickle may not change a function")


class _Dtype:
    """Stands for a dtype: numbers, booleans, fixed-width text and bytes, or objects; nothing structured."""

    __slots__ = ("order", "spec")

    def __init__(self, spec: Any) -> None:
        text = spec.decode("latin1") if isinstance(spec, bytes) else spec
        if not isinstance(text, str) or not (
            _SIMPLE_DTYPE.fullmatch(text) or text.rstrip("0123456789") == "O"
        ):
            raise TypeError(f"dtype {spec!r}")
        self.spec, self.order = text, "="

    def __setstate__(self, state: Any) -> None:
        order, nested = state[1], (state[2], state[3], state[4])
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|") or any(part is not None for part in nested):
            raise TypeError("a structured dtype")
        self.order = order

    @property
    def is_object(self) -> bool:
        return self.spec[0] == "O"

    def real(self) -> np.dtype[Any]:
        if self.is_object:
            return np.dtype(object)
        return np.dtype(self.spec if self.order == "|" else self.order + self.spec)


class _Array:
    """Stands for an array until the whole pickle is read; objects in it may be arrays themselves."""

    __slots__ = ("objects", "shape", "value")

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None
        self.objects: list[Any] | None = None
        self.shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, raw = state[-4:]
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        if not isinstance(dtype, _Dtype):
            raise TypeError("an array without a dtype")
        self.shape = _shape(shape)
        if dtype.is_object:
            if not isinstance(raw, list) or len(raw) != math.prod(self.shape):
                raise TypeError("an array of objects without its list")
            self.objects = raw
            return
        self.value = _from_bytes(raw, dtype.real(), self.shape, order)


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise TypeError(f"shape {shape!r}")
    return shape


def _from_bytes(raw: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> NDArray[Any]:
    if order not in ("C", "F"):
        raise TypeError(f"order {order!r}")
    if isinstance(raw, str):  # Python 2 wrote bytes as text
        raw = raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray, memoryview)) or len(raw) != math.prod(shape) * dtype.itemsize:
        raise TypeError(f"the bytes of an array of shape {shape}, {dtype} are not those of one")
    if not len(raw):
        return np.zeros(shape, dtype)
    flat: NDArray[Any] = np.frombuffer(raw, dtype)
    flat.setflags(write=False)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _make_dtype(spec: Any, align: Any = False, copy: Any = False) -> _Dtype:  # noqa: ARG001 - numpy's order
    return _Dtype(spec)


def _make_array(kind: Any, shape: Any, code: Any) -> _Array:  # noqa: ARG001 - the state that follows says all
    if kind is not _NDARRAY:
        raise TypeError("an array of another class")
    return _Array()


def _make_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    array = _Array()
    if order == "K":
        array.fill(raw, dtype, shape, "C")
        if array.value is None or not isinstance(axes, tuple) or sorted(axes) != list(range(len(axes))):
            raise TypeError("axes")
        array.value = array.value.transpose(axes)
    else:
        array.fill(raw, dtype, shape, order)
    return array


def _make_scalar(dtype: Any, raw: Any = None) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.is_object:
        raise TypeError("a scalar without a plain dtype")
    # As a Python value, because a numpy scalar on the stack could be given a state of its own.
    return _from_bytes(raw, dtype.real(), (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("_codecs.encode is known for bytes as text only")
    return text.encode("latin1")


def _not_callable(*_: Any) -> NoReturn:
    raise TypeError("numpy.ndarray is not called by name")


def _make_bytes(text: Any = "", encoding: Any = "latin1") -> bytes:
    return _encode(text, encoding) if isinstance(text, str) else bytes(_byte_list(text))


def _byte_list(value: Any) -> Any:
    # An int would be a length: a short pickle could ask for terabytes.
    if not isinstance(value, (bytes, bytearray, list, tuple)):
        raise TypeError("bytes of something else")
    return value


def _make_bytearray(value: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(_make_bytes(value, encoding))


def _make_dict(items: Any = ()) -> dict[Any, Any]:
    return dict(items)


def _make_set(items: Any = ()) -> set[Any]:
    return set(items)


def _make_frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(items)


_NDARRAY = _Function(_not_callable)


def _known_names() -> dict[tuple[str, str], _Function]:
    names = {
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): _Function(_make_dtype),
        ("_codecs", "encode"): _Function(_encode),
        ("collections", "OrderedDict"): _Function(_make_dict),
    }
    for module in ("builtins", "__builtin__"):  # Python 3 and 2
        names[module, "set"] = _Function(_make_set)
        names[module, "frozenset"] = _Function(_make_frozenset)
        names[module, "bytes"] = _Function(_make_bytes)
        names[module, "bytearray"] = _Function(_make_bytearray)
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        names[f"{core}.multiarray", "_reconstruct"] = _Function(_make_array)
        names[f"{core}.multiarray", "scalar"] = _Function(_make_scalar)
        names[f"{core}.numeric", "_frombuffer"] = _Function(_make_from_buffer)
    return names


_NAMES: Final = _known_names()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], where: str) -> None:
        super().__init__(file, encoding="latin1")  # what numpy itself needs for pickles of Python 2
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        """Return our stand-in for a name; anything else ends the reading."""
        if (module, name) not in _NAMES:
            raise BadInput(f"{self.where} asks for {module}.{name}, which was not run", _REMEDY)
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse: a persistent id means something outside the file."""
        raise BadInput(f"{self.where} refers to something outside itself ({pid!r})", _REMEDY)


def _check_memo(file: IO[bytes]) -> None:
    """Refuse a pickle that numbers its memo beyond its own length: a few bytes could take all memory."""
    for count, (opcode, argument) in enumerate(_opcodes(file)):
        if opcode not in _MEMO_WRITES:
            continue
        number = int(argument) if opcode == b"p" else int.from_bytes(argument, "little")
        if number > count:
            raise pickle.UnpicklingError(f"memo entry {number} in a pickle of {count} steps")


def _opcodes(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield each opcode with its fixed-size or one-line argument; content of any length is jumped over."""
    while (opcode := file.read(1)) not in (b"", b"."):
        known = _OPCODES.get(opcode.decode("latin1"))
        if known is None:
            raise pickle.UnpicklingError(f"opcode {opcode!r}")
        size = known.arg.n if known.arg is not None else 0
        if size >= 0:
            yield opcode, file.read(size)
        elif size == pickletools.UP_TO_NEWLINE:
            line = file.readline()
            if opcode in b"ic":  # INST and GLOBAL: module and name, a line each
                file.readline()
            yield opcode, line
        else:
            length = int.from_bytes(file.read(_LENGTH_BYTES[size]), "little")
            file.seek(length, io.SEEK_CUR)
            yield opcode, b""


def _finished(value: Any) -> Any:
    """Return the value with every stand-in replaced by the array it stands for."""
    return _Finisher().finish(value)


class _Finisher:
    def __init__(self) -> None:
        self.done: dict[int, Any] = {}  # shared and cyclic parts are finished once
        self.alive: list[Any] = []  # keeps ids unique while they are in `done`

    def finish(self, value: Any) -> Any:
        if isinstance(value, (_Function, _Dtype)):
            raise TypeError("a function or dtype as a value")
        if not isinstance(value, (_Array, dict, list, tuple, set, frozenset)):
            return value
        if id(value) not in self.done:
            self.alive.append(value)
            self.done[id(value)] = value
            self.done[id(value)] = self._rebuilt(value)
        return self.done[id(value)]

    def _rebuilt(self, value: Any) -> Any:
        if isinstance(value, _Array):
            return self._array(value)
        if isinstance(value, dict):
            items = [(self.finish(k), self.finish(v)) for k, v in value.items()]
            value.clear()
            value.update(items)
            return value
        if isinstance(value, list):
            value[:] = [self.finish(item) for item in value]
            return value
        return type(value)(self.finish(item) for item in value)

    def _array(self, value: _Array) -> NDArray[Any]:
        if value.objects is None:
            if value.value is None:
                raise TypeError("an array without its content")
            return value.value
        array = np.empty(len(value.objects), object)
        for i, item in enumerate(value.objects):
            array[i] = self.finish(item)
        return array.reshape(value.shape)
