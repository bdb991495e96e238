"""The restricted unpickler: it reads what numpy writes, and runs nothing of what a pickle asks for."""

import contextlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mer_featurestore.errors import BadInput
from mer_featurestore.interchange.safe_pickle import load_pickle, read_pickle

PROTOCOLS = range(6)


def load(data: bytes) -> Any:
    """Return what the bytes of a pickle hold."""
    return read_pickle(io.BytesIO(data), "x.pkl")


def same(a: Any, b: Any) -> bool:
    """Say whether two values are the same, arrays with dtype and shape."""
    if isinstance(b, np.ndarray):
        plain = b.dtype != object
        equal = (
            np.array_equal(a, b, equal_nan=b.dtype.kind in "fc") if plain else all(map(same, a.flat, b.flat))
        )
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and equal
    if isinstance(b, dict):
        return type(a) is dict and a.keys() == b.keys() and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


arrays = npst.arrays(
    st.one_of(
        npst.floating_dtypes(),
        npst.integer_dtypes(),
        npst.boolean_dtypes(),
        npst.unicode_string_dtypes(max_len=4),
        npst.byte_string_dtypes(max_len=4),
    ),
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), arrays
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(value=values, protocol=st.sampled_from(PROTOCOLS))
@settings(max_examples=200, deadline=None)
def test_everything_plain_comes_back(value: Any, protocol: int) -> None:
    """Containers, text, numbers and arrays of any order, shape and byte order, in every protocol."""
    assert same(load(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_every_layout_come_back(protocol: int) -> None:
    """Fortran order, transposed, sliced, empty, 0-d, big-endian, nested objects, scalars, shared parts."""
    base = np.arange(24.0).reshape(2, 3, 4)
    shared = np.ones(2)
    for value in (
        np.asfortranarray(base), base.transpose(2, 0, 1), base[:, ::2], base[:0], np.array(7),
        base.astype(">f4"),
        np.float32(2.5), np.int64(3), np.bool_(True), np.str_("x"), np.array(["ab", "c"]), {"s": {1, 2}},
        np.array([{"a": base}, None, "t", [np.arange(2)]], dtype=object), frozenset([1]), bytearray(b"ab"),
        np.array({"k": {"emo": "sad"}}, dtype=object), [shared, shared],
    ):  # fmt: skip
        assert same(load(pickle.dumps(value, protocol)), value), value
    assert load(pickle.dumps(OrderedDict(a=1), protocol)) == {"a": 1}


def test_pickles_of_numpy_1_are_read() -> None:
    """The module names of numpy before 2.0 lead to the same stand-ins."""
    array = np.arange(6.0).reshape(2, 3)
    for protocol in PROTOCOLS:
        old = pickle.dumps({"x": array, "y": np.float32(1)}, protocol)
        renamed = _rename(old, b"numpy._core", b"numpy.core")
        assert renamed != old
        assert same(load(renamed), {"x": array, "y": 1.0})


def _rename(data: bytes, old: bytes, new: bytes) -> bytes:
    """Rename a module in a pickle, with the lengths before its name and of frames."""
    if data[1] < 4 or data[:1] != b"\x80":
        return data.replace(old, new)
    out = data.replace(bytes([0x8C, len(old) + 11]) + old, bytes([0x8C, len(new) + 11]) + new)
    out = out.replace(bytes([0x8C, len(old) + 8]) + old, bytes([0x8C, len(new) + 8]) + new)
    return out[:3] + struct.pack("<Q", len(out) - 11) + out[11:] if out[2:3] == b"\x95" else out


def test_pickles_of_python_2_are_read() -> None:
    """There, bytes of arrays were text (protocol 0, as Python 2 wrote it)."""
    data = (
        b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
        b"(I1\n(I2\ntp6\ncnumpy\ndtype\np7\n(S'f8'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np11\nNNNI-1\nI-1\nI0\ntp12\n"
        b"bI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?\\x00\\x00\\x00\\x00\\x00\\x00\\x00@'\np13\ntp14\nb."
    )
    assert load(data).tolist() == [1.0, 2.0]


class Evil:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "posix.system"),
        (subprocess.Popen, "(subprocess|commands).Popen"),
        (eval, "(builtins|__builtin__).eval"),
        (getattr, "(builtins|__builtin__).getattr"),
        (np.load, "numpy.load"),
        (defaultdict, "collections.defaultdict"),
        (pickle.loads, "_?pickle.loads"),
    ],
)
def test_code_is_refused_by_name_and_not_run(
    tmp_path: Path, protocol: int, function: Any, named: str
) -> None:
    """The message names what the pickle wanted; nothing happened."""
    marker = tmp_path / "ran"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"id": [1], "x": Evil(function, f"touch {marker}")}, protocol))
    with pytest.raises(BadInput, match=rf"evil.pkl asks for {named}, which was not run; only numpy arrays"):
        load_pickle(path)
    assert not marker.exists()


HOSTILE = {
    "inst opcode": b"(S'touch x'\nios\nsystem\n.",
    "obj opcode": b"(cos\nsystem\nS'touch x'\no.",
    "newobj of a function": b"\x80\x02cnumpy\ndtype\n(S'f8'\nt\x81.",
    "extension code": b"\x80\x02\x82\x01.",
    "persistent id": b"Phttp://x\n.",
    "binary persistent id": b"\x80\x02K\x01Q.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x16ndarray.__subclasses__\x93.",
    "a function as a value": b"cnumpy\ndtype\n.",
    "a dtype as a value": b"cnumpy\ndtype\n(S'f8'\ntR.",
    "state for a function": b"cnumpy\ndtype\n}S'__call__'\nI1\nsb.",
    "slots for a function": b"cnumpy\ndtype\n(N}S'_call'\nI1\nstb.",
    "the ndarray class called": b"cnumpy\nndarray\n((I2\ntt R.".replace(b" ", b""),
    "attributes for a list": b"]}S'append'\nI1\nsb.",
    "append to an array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntRI1\na.",
    "item of an array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntRI1\nI1\ns.",
    "an array never filled": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
    "reconstruct of another class": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
    "encode with another codec": b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    "bytes by length": b"c__builtin__\nbytes\n(I999999999999\ntR.",
    "bytearray by length": b"c__builtin__\nbytearray\n(I999999999999\ntR.",
    "out of band buffer": b"\x80\x05\x97.",
    "memo far away": b"\x80\x02]r\xff\xff\xff\x7f.",
    "memo far away, as text": b"]p2147483647\n.",
    "truncated": pickle.dumps(np.arange(9.0), 4)[:-9],
    "no pickle": b"hello",
    "empty": b"",
    "unhashable key": b"}]I1\ns.",
    "stack underflow": b"R.",
    "too deep": b"]" * 100_000 + b"a" * 99_999 + b".",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_opcodes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Whatever the opcode, it ends as one clear error, and leaves nothing behind in the next reading."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput):
        load(HOSTILE[case])
    assert list(tmp_path.iterdir()) == []
    assert load(pickle.dumps(np.arange(3), 5)).tolist() == [0, 1, 2]


def array_state(dtype: bytes, state: bytes, raw: bytes, shape: bytes = b"(I1\nt") -> bytes:
    """Return the pickle of an array with any dtype, dtype state and content."""
    made = b"cnumpy\ndtype\n(" + dtype + b"I0\nI1\ntR" + state + b"b"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n" + shape + made
        + b"I00\n" + raw + b"tb."
    )  # fmt: skip


PLAIN = b"(I3\nS'<'\nNNNI-1\nI-1\nI0\nt"
FORGED = {
    "pointers as bytes": array_state(b"S'O8'\n", PLAIN, b"S'AAAAAAAA'\n"),
    "structured with objects": array_state(
        b"S'V8'\n", b"(I3\nS'|'\nN(S'a'\nt}I8\nI1\nI0\nt", b"S'AAAAAAAA'\n"
    ),
    "fields in the state": array_state(b"S'f8'\n", b"(I3\nS'<'\nN(S'a'\nt}I8\nI1\nI0\nt", b"S'AAAAAAAA'\n"),
    "subarray in the state": array_state(b"S'f8'\n", b"(I3\nS'<'\n(I1\ntNNI8\nI1\nI0\nt", b"S'AAAAAAAA'\n"),
    "a wider itemsize": array_state(b"S'f8'\n", PLAIN, b"S'AAAA'\n"),
    "a shape beyond the bytes": array_state(b"S'f8'\n", PLAIN, b"S'AAAAAAAA'\n", b"(I1000000000000\nt"),
    "a negative shape": array_state(b"S'f8'\n", PLAIN, b"S'AAAAAAAA'\n", b"(I-1\nt"),
    "a shape of floats": array_state(b"S'f8'\n", PLAIN, b"S'AAAAAAAA'\n", b"(F1.0\nt"),
    "a dtype by name": array_state(b"S'numpy.object_'\n", PLAIN, b"S'AAAAAAAA'\n"),
    "a dtype of fields": array_state(b"S'f8,O'\n", PLAIN, b"S'AAAAAAAAAAAAAAAA'\n"),
    "an odd byte order": array_state(b"S'f8'\n", b"(I3\nS'O'\nNNNI-1\nI-1\nI0\nt", b"S'AAAAAAAA'\n"),
    "a scalar object": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'x'\ntR.",
    "a short scalar": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f8'\ntRS'x'\ntR.",
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_arrays_are_refused(case: str) -> None:
    """Some of these numpy's own unpickling would take for memory; ours checks every claim."""
    with pytest.raises(BadInput, match=r"x.pkl is not a pickle of arrays and plain containers"):
        load(FORGED[case])


def test_the_forging_helper_makes_good_arrays_too() -> None:
    """So that the cases above fail for their reason, and not for a slip in the helper."""
    assert load(array_state(b"S'f8'\n", PLAIN, b"S'AAAAAAAA'\n")).shape == (1,)


def test_a_part_of_itself_is_no_endless_loop() -> None:
    """Cyclic lists and dicts end; sharing does not multiply."""
    loop: list[Any] = []
    loop.append(loop)
    again = load(pickle.dumps(loop))
    assert again[0] is again
    bomb: list[Any] = [np.zeros(1)]
    for _ in range(60):
        bomb = [bomb, bomb]
    assert load(pickle.dumps(bomb))[0] is not None


def test_arrays_are_read_only_views() -> None:
    """The bytes of the pickle are the bytes of the array."""
    array = load(pickle.dumps(np.arange(1000.0), 5))
    assert not array.flags.writeable
    assert not array.flags.owndata


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_random_bytes_never_get_through_otherwise(data: bytes) -> None:
    """Any bytes either are a plain value or one clear error: no other exception leaves."""
    with contextlib.suppress(BadInput):
        load(data + b".")


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_flipped_bytes_of_a_real_pickle_are_survived(data: st.DataObject) -> None:
    """A damaged file gives a value or one clear error, never anything else."""
    good = bytearray(
        pickle.dumps({"a": np.arange(4.0), "b": ["x", np.float32(1)]}, data.draw(st.integers(0, 5)))
    )
    for _ in range(3):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadInput):
        load(bytes(good))


def test_files_that_are_no_files(tmp_path: Path) -> None:
    """Missing and folder are said."""
    with pytest.raises(BadInput, match="no such file"):
        load_pickle(tmp_path / "x.pkl")
    with pytest.raises(BadInput, match="is a folder"):
        load_pickle(tmp_path)


def test_no_hostile_case_is_hostile_by_accident() -> None:
    """The pickles that should disassemble do: they fail for what they ask, not for a typo."""
    for case in ("inst opcode", "obj opcode", "newobj of a function", "slots for a function", "dotted name"):
        pickletools.dis(HOSTILE[case], io.StringIO())
