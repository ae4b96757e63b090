"""Load third-party pickles without running their code: plain values and numpy arrays, nothing else.

Even `__setstate__` of numpy is not called: this module checks the bytes of arrays and builds the arrays itself.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

MAX_BYTES = 256 << 20  # of a pickle; a larger one is not a table of ids or labels
MAX_OPCODES = 5_000_000  # a table of a million images has 3 per image; an empty list takes 80 bytes of memory
MAX_DEPTH = 100
MAX_AXES = 64  # of an array, as in numpy
ALLOWED_OPCODES = {
    name
    for names in (
        "PROTO FRAME STOP MARK POP POP_MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET",
        "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT",
        "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8",
        "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8",
        "LIST EMPTY_LIST APPEND APPENDS TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 DICT EMPTY_DICT SETITEM SETITEMS",
        "GLOBAL STACK_GLOBAL REDUCE BUILD",
    )
    for name in names.split()
}


def load_restricted(file: BinaryIO | Path, max_bytes: int = MAX_BYTES) -> Any:
    """Load one pickle of plain values, without importing or calling anything that it names.

    Allowed are None, bool, numbers, text, bytes, list, tuple, dict, OrderedDict, numpy arrays and scalars. Declared
    sizes are compared with the bytes of the pickle before memory is allocated, and so is their sum: arrays may share
    one buffer, and each becomes a copy of it.

    Args:
        file: Path, or a stream at the first byte of the pickle.
        max_bytes: Maximum number of bytes of the pickle.

    Raises:
        ValueError: The pickle has other values, is malformed or too large.
    """
    if isinstance(file, Path):
        with open(file, "rb") as stream:
            return load_restricted(stream, max_bytes)
    data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"the pickle has more than {max_bytes:,} bytes")
    _check_opcodes(data)
    try:
        value = _Unpickler(io.BytesIO(data), encoding="latin1").load_within(_Budget(len(data)))
    except ValueError:
        raise
    except Exception as error:  # a malformed pickle can raise nearly any exception
        raise ValueError(f"the pickle is malformed ({error})") from error
    return _Converter(_Budget(len(data))).convert(value, 0)


class _Budget:
    """Number of bytes or elements that may still be copied; a pickle has each of them once."""

    def __init__(self, size: int):
        self._size = self._left = size

    def spend(self, size: int) -> None:
        """Take from the budget before the copy; raise ValueError if too little is left."""
        self._left -= size
        if self._left < 0:
            raise ValueError(
                f"the pickle has {self._size:,} bytes, but the values that it repeats have more: they share their bytes"
            )


def _check_opcodes(data: bytes) -> None:
    try:
        for number, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if number == MAX_OPCODES:
                raise ValueError(f"the pickle has more than {MAX_OPCODES:,} values and steps")
            if opcode.name not in ALLOWED_OPCODES:
                raise ValueError(f"the pickle has {opcode.name} at byte {position}, which is not plain data")
            # The memo of the unpickler is an array of this length.
            if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(data):
                raise ValueError(f"the pickle numbers a value {argument:,} at byte {position}, but it has fewer values")
    except ValueError:
        raise
    except Exception as error:  # a malformed pickle can raise nearly any exception
        raise ValueError(f"the pickle is malformed ({error})") from error


def _check_text(value: Any) -> str:
    """Return the value if it is a text.

    To hash, compare or print a deeply nested tuple can take forever, or crash.
    """
    if not isinstance(value, str):
        raise ValueError(f"the pickle has a {type(value).__name__} where a text is required")
    return value


class _Dtype:
    """Placeholder of numpy.dtype: a kind and a size, without fields."""

    def __init__(self, text: Any, *_: Any):
        self.text, self.order = _check_text(text), "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if _check_text(state[1]) in ("<", ">", "|") else "="

    def to_numpy(self) -> np.dtype:
        """Return the numpy dtype; raise ValueError unless it is of numbers, text, bytes or objects."""
        kind = self.text.lstrip("<>|=")
        if not kind or kind[0] not in "biufcSUO?" or not (kind[1:].isdigit() or kind[1:] == ""):
            raise ValueError(f"the pickle has an array of {self.text[:40]!r}, which is not plain data")
        order: Any = self.order if kind[0] not in "SO?b" else "="
        return np.dtype(kind).newbyteorder(order)


class _Array:
    """Placeholder of numpy.ndarray until `_build_array`."""

    state: tuple = ()

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _ArrayFromBytes:
    """Placeholder of an array or scalar with its bytes as arguments: (bytes, dtype, shape, order)."""

    def __init__(self, data: Any, dtype: Any, shape: Any, order: str = "C"):
        self.state = (1, shape, dtype, order == "F", data)


def _make_scalar(dtype: Any, data: Any = b"") -> _ArrayFromBytes:
    return _ArrayFromBytes(data, dtype, None)


def _encode(budget: _Budget, text: str, encoding: str = "latin1") -> bytes:
    """Replace `_codecs.encode` in pickles of protocol 2, which write bytes as text."""
    budget.spend(len(_check_text(text)))
    return text.encode("latin1")


def _make_empty_bytes() -> bytes:
    """Replace `bytes()`, which is how pickles up to protocol 2 write empty bytes."""
    return b""


def _make_array(name: Any = None, *_: Any) -> _Array:
    """Replace `_reconstruct` of numpy, which makes an empty array whose state follows."""
    return _Array()


def _make_dict(budget: _Budget, pairs: Any = ()) -> dict:
    """Replace collections.OrderedDict, with the check of keys of any dict."""
    budget.spend(len(pairs))
    return {_check_key(key): value for key, value in pairs}


def _check_key(key: Any) -> Any:
    """Return a key if it is fast to hash; the hash of a deeply nested tuple can take forever."""
    if not isinstance(key, (str, bytes, int, float, type(None))):
        raise ValueError(f"the pickle has a dict with a {type(key).__name__} as key, which is not allowed")
    return key


# (module, name) in a pickle -> what replaces it.
ALLOWED_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _make_dict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _make_empty_bytes,
    ("builtins", "bytes"): _make_empty_bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
for _core in ("numpy.core", "numpy._core"):  # before numpy 2, and since
    ALLOWED_GLOBALS |= {
        (f"{_core}.multiarray", "_reconstruct"): _make_array,
        (f"{_core}.multiarray", "scalar"): _make_scalar,
    }
    ALLOWED_GLOBALS[f"{_core}.numeric", "_frombuffer"] = _ArrayFromBytes


COPYING_GLOBALS = (_encode, _make_dict)  # their first argument is the budget
_PythonUnpickler: Any = pickle._Unpickler  # the implementation in Python, which typeshed does not describe


class _Unpickler(_PythonUnpickler):
    """Unpickler with checks in each opcode that could have effects outside the value."""

    dispatch: ClassVar = dict(_PythonUnpickler.dispatch)

    def load_within(self, budget: _Budget) -> Any:
        self._budget = budget
        return self.load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise ValueError(f"the pickle asks for {module}.{name}, which is not plain data")
        replacement = ALLOWED_GLOBALS[module, name]
        return partial(replacement, self._budget) if replacement in COPYING_GLOBALS else replacement

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (_Array, _Dtype)):  # it would set attributes of any other object
            raise ValueError(f"the pickle gives a state to a {type(self.stack[-2]).__name__}, which is not plain data")
        super().load_build()

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({_check_key(items[i]): items[i + 1] for i in range(0, len(items), 2)})

    def load_setitem(self) -> None:
        _check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        for key in self.stack[::2]:  # above the mark, keys and values alternate
            _check_key(key)
        super().load_setitems()

    for _opcode, _load in {
        pickle.BUILD: load_build, pickle.DICT: load_dict, pickle.SETITEM: load_setitem, pickle.SETITEMS: load_setitems
    }.items():  # fmt: skip
        dispatch[_opcode[0]] = _load


class _Converter:
    """Replaces the placeholders of arrays in a value; a container that occurs twice is converted once."""

    def __init__(self, budget: _Budget):
        self._budget, self._done = budget, dict[int, tuple[Any, Any]]()

    def convert(self, value: Any, depth: int) -> Any:
        """Return the value with arrays in place of their placeholders."""
        if depth > MAX_DEPTH:
            raise ValueError(f"the pickle is nested more than {MAX_DEPTH} deep")
        if id(value) in self._done:
            return self._done[id(value)][1]
        if isinstance(value, (dict, list)):
            self._done[id(value)] = value, value
            self._convert_parts(value, depth + 1)
            return value
        if isinstance(value, tuple):
            converted: Any = tuple(self.convert(part, depth + 1) for part in value)
        elif isinstance(value, (_Array, _ArrayFromBytes)):
            converted = self._build_array(value.state, depth + 1)
        elif isinstance(value, _Dtype) or callable(value):
            raise ValueError("the pickle has a type instead of a value")
        else:
            return value
        self._done[id(value)] = value, converted  # keeps the value alive, so that no other object gets its id
        return converted

    def _convert_parts(self, container: dict | list, depth: int) -> None:
        if isinstance(container, list):
            container[:] = [self.convert(part, depth) for part in container]
            return
        pairs = [(self.convert(key, depth), self.convert(part, depth)) for key, part in container.items()]
        container.clear()
        try:
            container.update(pairs)
        except TypeError as error:
            raise ValueError(f"the pickle has a dict whose key is not a plain value ({error})") from error

    def _build_array(self, state: tuple, depth: int) -> Any:
        """Build an array from (version, shape, dtype, is column-major, bytes or list).

        Without a shape the result is a scalar.
        """
        try:
            _, shape, dtype, fortran, data = state
            kind = dtype.to_numpy()
            is_scalar = shape is None
            shape = () if is_scalar else (shape,) if isinstance(shape, int) else shape
            if len(shape) > MAX_AXES or not all(isinstance(side, int) and abs(side) < 2**63 for side in shape):
                raise ValueError("the pickle has an array of an impossible shape")
            size = len(data) if kind.hasobject else len(data) // max(1, kind.itemsize)
            if prod(shape) != size or min(shape, default=0) < 0 or (kind.hasobject and not isinstance(data, list)):
                raise ValueError(f"the pickle has an array of {shape} with {len(data):,} bytes")
            self._budget.spend(len(data))
            if kind.hasobject:
                array = np.empty(len(data), dtype=object)
                array[:] = [self.convert(part, depth) for part in data]
            else:
                array = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"the pickle has a malformed array ({error})") from error
        return array[0] if is_scalar else array.reshape(shape, order="F" if fortran else "C").copy()
