"""Pickles of others, read without running anything of theirs: plain values and numpy arrays, nothing else.

numpy's own `__setstate__` is never called either: arrays are put together here from their bytes, checked first.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

MAX_BYTES = 256 << 20  # of a pickle; a larger one is not an index or a few labels
MAX_DEPTH = 100
MAX_AXES = 64  # of an array, as in numpy
ALLOWED_OPCODES = set()


for _names in (
    "PROTO FRAME STOP MARK POP POP_MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET",
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT",
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8",
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8",
    "LIST EMPTY_LIST APPEND APPENDS TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 DICT EMPTY_DICT SETITEM SETITEMS",
    "GLOBAL STACK_GLOBAL REDUCE BUILD",
):
    ALLOWED_OPCODES |= set(_names.split())


def load_restricted(file: BinaryIO | Path, max_bytes: int = MAX_BYTES) -> Any:
    """The value of one pickle: None, bool, numbers, text, bytes, list, tuple, dict, OrderedDict, numpy arrays, scalars.

    `file` is a path, or a stream that stands at the pickle. Nothing that the pickle names is imported or called; sizes
    that it announces are checked against the bytes that there are before anything is allocated.

    Raises ValueError saying what it holds that is not allowed, or where it breaks off.
    """
    if isinstance(file, Path):
        with open(file, "rb") as stream:
            return load_restricted(stream, max_bytes)
    data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"the pickle has more than {max_bytes:,} bytes")
    _check_opcodes(data)
    try:
        value = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except ValueError:
        raise
    except Exception as error:  # a malformed pickle raises nearly anything
        raise ValueError(f"the pickle is malformed ({error})") from error
    return _plain(value, {}, 0)


def _check_opcodes(data: bytes) -> None:
    try:
        for opcode, argument, place in pickletools.genops(data):
            if opcode.name not in ALLOWED_OPCODES:
                raise ValueError(f"the pickle holds {opcode.name} at byte {place}, which is not plain data")
            if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(data):  # the memo is an array as long as that
                raise ValueError(f"the pickle numbers a value {argument:,} at byte {place}; it has no so many")
    except ValueError:
        raise
    except Exception as error:  # a malformed pickle raises nearly anything
        raise ValueError(f"the pickle is malformed ({error})") from error


def _text(value: Any) -> str:
    """The value, a text: to hash, compare or write out a tuple nested without end would take for ever, or crash."""
    if not isinstance(value, str):
        raise ValueError(f"the pickle holds a {type(value).__name__} where a text is needed")
    return value


class _Dtype:
    """Stands for numpy.dtype: a kind and a width, and no fields."""

    def __init__(self, text: Any, *_: Any):
        self.text, self.order = _text(text), "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if _text(state[1]) in ("<", ">", "|") else "="

    def real(self) -> np.dtype:
        """The numpy dtype. Raises ValueError for anything but plain numbers, texts, bytes and object."""
        kind = self.text.lstrip("<>|=")
        if not kind or kind[0] not in "biufcSUO?" or not (kind[1:].isdigit() or kind[1:] == ""):
            raise ValueError(f"the pickle holds an array of {self.text[:40]!r}, which is not plain data")
        return np.dtype(kind).newbyteorder(self.order if kind[0] not in "SO?b" else "=")


class _Array:
    """Stands for numpy.ndarray until `real`."""

    state: tuple = ()

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _ArrayFromBytes:
    """An array or a scalar whose bytes came as arguments: (bytes, dtype, shape, order)."""

    def __init__(self, data: Any, dtype: Any, shape: Any, order: str = "C"):
        self.state = (1, shape, dtype, order == "F", data)


def _scalar(dtype: Any, data: Any = b"") -> _ArrayFromBytes:
    return _ArrayFromBytes(data, dtype, None)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What `_codecs.encode` is in pickles of protocol 2: bytes written as text."""
    return _text(text).encode("latin1")


def _no_bytes() -> bytes:
    """How pickles of protocol 2 and before write empty bytes."""
    return b""


def _class(name: Any = None, *_: Any) -> _Array:
    return _Array()


def _ordered(pairs: Any = ()) -> dict:
    """Stands for collections.OrderedDict, whose keys are looked at as those of any dict are."""
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    """A key that can be hashed in a moment: of a tuple nested without end nothing is known before it is hashed."""
    if not isinstance(key, (str, bytes, int, float, type(None))):
        raise ValueError(f"the pickle holds a dict with a {type(key).__name__} as key, which is no plain value")
    return key


ALLOWED_GLOBALS = {("collections", "OrderedDict"): _ordered, ("_codecs", "encode"): _encode}


ALLOWED_GLOBALS |= {("__builtin__", "bytes"): _no_bytes, ("builtins", "bytes"): _no_bytes}


ALLOWED_GLOBALS |= {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype}


for _core in ("numpy.core", "numpy._core"):  # the name of before numpy 2, and of after
    ALLOWED_GLOBALS |= {(f"{_core}.multiarray", "_reconstruct"): _class, (f"{_core}.multiarray", "scalar"): _scalar}
    ALLOWED_GLOBALS[f"{_core}.numeric", "_frombuffer"] = _ArrayFromBytes


class _Unpickler(pickle._Unpickler):
    """Python's own, so that each opcode that could touch more than the value can be refused."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise ValueError(f"the pickle asks for {module}.{name}, which is not plain data; it is not read")
        return ALLOWED_GLOBALS[module, name]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (_Array, _Dtype)):  # of all else it would set attributes
            raise ValueError(f"the pickle gives a state to a {type(self.stack[-2]).__name__}, which is not plain data")
        super().load_build()

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({_key(items[i]): items[i + 1] for i in range(0, len(items), 2)})

    def load_setitem(self) -> None:
        _key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        for key in self.stack[::2]:  # what stands above the mark: keys and values in turn
            _key(key)
        super().load_setitems()

    for _opcode, _load in {
        pickle.BUILD: load_build, pickle.DICT: load_dict, pickle.SETITEM: load_setitem, pickle.SETITEMS: load_setitems
    }.items():  # fmt: skip
        dispatch[_opcode[0]] = _load


def _plain(value: Any, done: dict[int, tuple[Any, Any]], depth: int) -> Any:
    """The value with real arrays in place of the stand-ins; a container that occurs twice is gone through once."""
    if depth > MAX_DEPTH:
        raise ValueError(f"the pickle is nested more than {MAX_DEPTH} deep")
    if id(value) in done:
        return done[id(value)][1]
    below = lambda part: _plain(part, done, depth + 1)  # noqa: E731
    if isinstance(value, (dict, list)):
        done[id(value)] = value, value
        _fill(value, below)
        return value
    if isinstance(value, tuple):
        found: Any = tuple(below(part) for part in value)
    elif isinstance(value, (_Array, _ArrayFromBytes)):
        found = _array(value.state, below)
    elif isinstance(value, _Dtype) or callable(value):
        raise ValueError("the pickle holds a type instead of a value")
    else:
        return value
    done[id(value)] = value, found  # the value is kept: its id must not pass to another
    return found


def _fill(container: dict | list, below: Callable[[Any], Any]) -> None:
    if isinstance(container, list):
        container[:] = [below(part) for part in container]
        return
    pairs = [(below(key), below(part)) for key, part in container.items()]
    container.clear()
    try:
        container.update(pairs)
    except TypeError as error:
        raise ValueError(f"the pickle holds a dict whose key is no plain value ({error})") from error


def _array(state: tuple, below: Any) -> Any:
    """(version, shape, dtype, column-major, bytes or list) -> an array; without a shape, a scalar."""
    try:
        _, shape, dtype, fortran, data = state
        kind = dtype.real()
        one = shape is None
        shape = () if one else (shape,) if isinstance(shape, int) else shape
        if len(shape) > MAX_AXES or not all(isinstance(side, int) and abs(side) < 2**63 for side in shape):
            raise ValueError("the pickle holds an array of a shape that cannot be")
        size = len(data) if kind.hasobject else len(data) // max(1, kind.itemsize)
        if prod(shape) != size or min(shape, default=0) < 0 or (kind.hasobject and not isinstance(data, list)):
            raise ValueError(f"the pickle holds an array of {shape} with {len(data):,} bytes")
        if kind.hasobject:
            array = np.empty(len(data), dtype=object)
            array[:] = [below(part) for part in data]
        else:
            array = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"the pickle holds a malformed array ({error})") from error
    return array[0] if one else array.reshape(shape, order="F" if fortran else "C").copy()
