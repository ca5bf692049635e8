"""How variables travel: data frames as Arrow, arrays as npy, bytes as they are, all else as JSON; no pickles.

This file runs on both sides, so it imports nothing of ours; what it reads may come from a hostile sandbox. A value
becomes a *header* (what JSON can hold) and *buffers*.

JSON carries None, bool, int, float, str, lists, and dicts with text as keys as they are. What JSON has no form for is
``{"$": [kind, …]}``: tuples, sets, bytes, complex numbers, dates and times, nan and the infinities, other dicts.
"""

from __future__ import annotations

import datetime  # noqa: ICN001 - its classes have the names of the kinds
import json
import math
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Union

    Buffer = Union[bytes, bytearray, memoryview]

LABELS = ("object", "bool", "str", "int64", "float64")
"""Types of columns' names that travel as JSON."""
MAX_DEPTH = 100
"""Lists in lists."""
WHERE = "here; install it by `pip install 'sandbox-kernel[data]'`"
"""Where pyarrow is absent when it is absent; in the sandbox there are other words for that."""
PLAIN = (type(None), bool, str)


class TransferError(Exception):
    """A value cannot travel; the message says why."""


def encode(value: Any) -> tuple[dict[str, Any], list[Buffer]]:
    """Return the header and the buffers of a value. Raises TransferError."""
    module = type(value).__module__.partition(".")[0]
    if module == "pandas":
        return _encode_pandas(value)
    if module == "numpy":
        return _encode_numpy(value)
    if module == "pyarrow":
        return _encode_table(value)
    if type(value) in (bytes, bytearray):
        return {"kind": type(value).__name__}, [value]
    try:
        text = json.dumps(_to_json(value, "the value", 0), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (RecursionError, ValueError) as exc:
        raise TransferError(f"the value cannot be written as JSON: {exc}") from None
    return {"kind": "json"}, [text.encode()]


def decode(header: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
    """Return the value. Raises TransferError where the data are not what `encode` makes."""
    readers: dict[str, Callable[..., Any]] = {
        "json": _decode_json,
        "bytes": lambda _, data: bytes(data),
        "bytearray": lambda _, data: bytearray(data),
        "npy": _decode_numpy,
        "frame": _decode_frame,
        "series": _decode_series,
        "table": _decode_table,
    }
    kind = header.get("kind")
    reader = readers.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise TransferError(f"values of the kind {str(kind)[:40]!r} are not known")
    try:
        return reader(header, _joined(buffers))
    except TransferError:
        raise
    except ImportError as exc:
        raise TransferError(f"the value needs {exc.name}, which is not installed here") from None
    # What a hostile sandbox sends can make the readers fail in every way.
    except Exception as exc:  # noqa: BLE001
        raise TransferError(f"the data that came are broken ({type(exc).__name__}: {str(exc)[:200]})") from None


def fresh_memory(size: int) -> memoryview:
    """Return memory that the system gives when it is written to, not before: who says a size must send it, too."""
    import mmap

    if not hasattr(mmap, "MAP_PRIVATE"):
        return memoryview(mmap.mmap(-1, size))
    # Not in large pages: on a machine whose memory is in pieces the system looks for them ten times as long as it
    # takes to fill small ones.
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _joined(buffers: Sequence[Buffer]) -> Union[bytearray, memoryview]:
    """Return the buffers as one that is ours, and may be written to."""
    if len(buffers) == 1:
        whole = memoryview(buffers[0])
        if not whole.readonly:
            return whole
    joined = bytearray(sum(len(one) for one in buffers))
    position = 0
    for one in buffers:
        joined[position : position + len(one)] = one
        position += len(one)
    return joined


# ---- JSON


def _to_json(value: Any, place: str, depth: int) -> Any:  # noqa: C901, PLR0911 - one line for each type
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is int:
        # Longer ones have no decimal form that Python would read again.
        return value if value.bit_length() < 10_000 else _tagged("int", hex(value))
    if kind is float:
        return value if math.isfinite(value) else _tagged("float", repr(value))
    if depth > MAX_DEPTH:
        raise TransferError(f"{place[:80]}… is nested too deeply, or contains itself")
    if kind is list:
        return [_to_json(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
    if kind is dict:
        return _dict_to_json(value, place, depth)
    if kind in (tuple, set, frozenset):
        items = [_to_json(item, f"an item of {place}", depth + 1) for item in value]
        return _tagged(kind.__name__, items)
    if kind in (bytes, bytearray):
        return _tagged(kind.__name__, value.hex())
    if kind is complex:
        return _tagged("complex", repr(value.real), repr(value.imag))
    if kind is datetime.timedelta:
        return _tagged("timedelta", value.days, value.seconds, value.microseconds)
    if kind in (datetime.date, datetime.time, datetime.datetime):
        return _moment_to_json(value, kind.__name__, place)
    raise TransferError(_why_not(value, place))


def _tagged(kind: str, *content: Any) -> dict[str, Any]:
    return {"$": [kind, *content]}


def _dict_to_json(value: dict[Any, Any], place: str, depth: int) -> Any:
    if all(type(key) is str for key in value) and "$" not in value:
        return {key: _to_json(item, f"{place}[{key!r}]", depth + 1) for key, item in value.items()}
    pairs = [
        [_to_json(key, f"a key of {place}", depth + 1), _to_json(item, f"{place}[{key!r}]", depth + 1)]
        for key, item in value.items()
    ]
    return _tagged("dict", pairs)


def _moment_to_json(value: Any, kind: str, place: str) -> Any:
    zone = getattr(value, "tzinfo", None)
    if zone is not None and type(zone) is not datetime.timezone:
        raise TransferError(f"{place} has the time zone {zone}, and only fixed offsets from UTC travel; convert it")
    return _tagged(kind, value.isoformat(), getattr(value, "fold", 0))


def _why_not(value: Any, place: str) -> str:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}".replace("builtins.", "")
    if kind.__module__.partition(".")[0] in ("pandas", "numpy", "pyarrow") and place != "the value":
        return f"{place} is of the type {name}, which does not travel inside of other values; give it a name of its own"
    base = next((one.__name__ for one in kind.__mro__[1:] if one in (*PLAIN, int, float, list, dict, tuple)), "")
    if base:
        return f"{place} is of the type {name}, which would come back as {base}; convert it first"
    return f"{place} is of the type {name}; only data, no objects with code, travel (data frames, arrays, JSON's types)"


def _decode_json(_header: dict[str, Any], data: bytearray) -> Any:
    return _from_json(json.loads(bytes(data)))


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        return {key: _from_json(item) for key, item in value.items()}
    kind, *content = value["$"]
    return _READERS[kind](*content)


_READERS: dict[str, Callable[..., Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "tuple": lambda items: tuple(_from_json(items)),
    "set": lambda items: set(_from_json(items)),
    "frozenset": lambda items: frozenset(_from_json(items)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda real, imaginary: complex(float(real), float(imaginary)),
    "timedelta": datetime.timedelta,
    "date": lambda text, _: datetime.date.fromisoformat(text),
    "time": lambda text, fold: datetime.time.fromisoformat(text).replace(fold=fold),
    "datetime": lambda text, fold: datetime.datetime.fromisoformat(text).replace(fold=fold),
    "dict": lambda pairs: {_from_json(key): _from_json(item) for key, item in pairs},
}


# ---- arrays


def _encode_numpy(value: Any) -> tuple[dict[str, Any], list[Buffer]]:
    import io

    import numpy as np

    scalar = isinstance(value, np.generic)
    if not scalar and type(value) is not np.ndarray:
        raise TransferError(_why_not(value, "the value"))
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise TransferError("the array holds Python objects, which would have to be pickled; convert it to a list")
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    start = io.BytesIO()
    np.lib.format.write_array_header_2_0(start, np.lib.format.header_data_from_array_1_0(array))
    order = array.T if array.flags.f_contiguous and not array.flags.c_contiguous else array
    # As bytes, because dates and other types have no buffer of their own.
    body: Any = order.reshape(-1).view(np.uint8).data if array.size and array.itemsize else b""
    return {"kind": "npy", "scalar": scalar}, [start.getvalue(), body]


def _decode_numpy(header: dict[str, Any], data: bytearray) -> Any:
    import io

    import numpy as np

    start = io.BytesIO(bytes(memoryview(data)[:65536]))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(start)
    if dtype.hasobject:
        raise TransferError("the array holds Python objects, which would have to be unpickled")
    if not dtype.itemsize or 0 in shape:
        # Numbers that nothing was sent for.
        array = np.empty(shape if 0 in shape or math.prod(shape) < len(data) else 0, dtype)
    else:
        array = np.frombuffer(data, dtype, offset=start.tell())
    array = array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
    return array[()] if header.get("scalar") else array


# ---- data frames


def _encode_pandas(value: Any) -> tuple[dict[str, Any], list[Buffer]]:
    import pandas as pd

    if type(value) is pd.Series:
        # What cannot travel is called by its name.
        header, buffers = _encode_frame(value.to_frame(value.name if type(value.name) is str else "values"))
        # The name may be anything that JSON carries; a column's may not.
        return {**header, "kind": "series", "name": _to_json(value.name, "the name of the series", 0)}, buffers
    if type(value) is pd.DataFrame:
        return _encode_frame(value)
    raise TransferError(_why_not(value, "the value"))


def _encode_frame(frame: Any) -> tuple[dict[str, Any], list[Buffer]]:
    pa = _pyarrow("A data frame")
    _require_plain(frame)
    header, table = _to_table(pa, frame)
    _require_restorable(pa, frame)
    return header, _arrow_stream(pa, table, _places(frame))


def _to_table(pa: Any, frame: Any) -> tuple[dict[str, Any], Any]:
    """Return the header and Arrow's table. Names and labels, of which Arrow knows text only, are in the header."""
    labels, index_names, column_names = _labels_to_json(frame.columns), frame.index.names, frame.columns.names
    plain = frame.copy(deep=False)
    numbers = [str(number) for number in range(len(frame.columns))]
    plain.columns = numbers if labels else frame.columns.set_names([None] * len(column_names))
    plain.index = frame.index.set_names([None] * len(index_names))
    try:
        table = pa.Table.from_pandas(plain)
    # Whatever is wrong with an object in it.
    except Exception as exc:  # noqa: BLE001
        place = next((place for place, values in _parts(frame) if not _is_taken(pa, values)), "the data frame")
        # Arrow's further words name a column by its number.
        reason = str(exc.args[0] if exc.args else exc)[:300]
        raise TransferError(f"Arrow cannot carry {place}: {reason}; convert it") from None
    return {
        "kind": "frame",
        "labels": labels,
        "names": [
            [_to_json(name, "the name of the index", 0) for name in index_names],
            [_to_json(name, "the name of the columns", 0) for name in column_names],
        ],
        "objects": _columns_of_objects(frame, table),
        "object_index": frame.index.nlevels == 1 and frame.index.dtype == object,
        "freq": [getattr(frame.index, "freqstr", None), getattr(frame.columns, "freqstr", None)],
    }, table


def _parts(frame: Any) -> list[tuple[str, Any]]:
    """Return columns and levels of the index, with what to call them."""
    index = frame.index
    levels = [(_index_place(name), index.get_level_values(level)) for level, name in enumerate(index.names)]
    return [*((f"the column {name!r}", column) for name, column in frame.items()), *levels]


def _index_place(name: Any) -> str:
    return "the index" if name is None else f"the index {name!r}"


def _places(frame: Any) -> list[str]:
    return [place for place, _ in _parts(frame)]


def _is_taken(pa: Any, values: Any) -> bool:
    try:
        pa.array(values, from_pandas=True)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def _labels_to_json(columns: Any) -> dict[str, Any]:
    """Return the names of columns, which Arrow would make text of; empty where it knows their type better."""
    import pandas as pd

    if columns.nlevels > 1:
        levels = [_labels_to_json(columns.get_level_values(level)) for level in range(columns.nlevels)]
        return {"levels": levels} if all(levels) else {}
    if isinstance(columns, pd.RangeIndex):
        return {"range": [columns.start, columns.stop, columns.step]}
    categories = columns.categories if isinstance(columns, pd.CategoricalIndex) else None
    dtype = str(columns.dtype if categories is None else categories.dtype)
    if dtype not in LABELS:
        return {}
    labels = [_to_json(label, f"the name of the column {label!r}", 0) for label in columns.astype(object)]
    found: dict[str, Any] = {"labels": labels, "dtype": dtype}
    if categories is not None:
        found["categories"] = [_to_json(one, f"the category {one!r} of the columns", 0) for one in categories]
        found["ordered"] = bool(columns.ordered)
    return found


def _labels_from_json(found: dict[str, Any]) -> Any:
    import pandas as pd

    if "levels" in found:
        return pd.MultiIndex.from_arrays([_labels_from_json(level) for level in found["levels"]])
    if "range" in found:
        return pd.RangeIndex(*found["range"])
    labels = [_from_json(label) for label in found["labels"]]
    dtype = found["dtype"] if found["dtype"] in LABELS else object
    if "categories" not in found:
        return pd.Index(labels, dtype=dtype, tupleize_cols=False)
    categories = pd.Index([_from_json(one) for one in found["categories"]], dtype=dtype, tupleize_cols=False)
    return pd.CategoricalIndex(labels, categories=categories, ordered=bool(found["ordered"]))


def _require_restorable(pa: Any, frame: Any) -> None:
    """Refuse a frame whose types, names or index would come back as others; its rows are not needed to see that."""
    try:
        why = _difference(frame.iloc[:0], _came_back(pa, frame.iloc[:0]))
    # It is not known how Arrow and pandas fail.
    except Exception as exc:  # noqa: BLE001
        why = _unreadable(pa, frame) or f"the data frame could not be read again ({str(exc)[:200]})"
    if not why and _has_objects(frame.index) and not _same_items(frame.index, _came_back(pa, frame.iloc[:, :1]).index):
        why = f"{_index_place(frame.index.name)} holds objects that would come back as others"
    if why:
        raise TransferError(f"{why}; convert it")


def _unreadable(pa: Any, frame: Any) -> str:
    """Return which column of a frame cannot be read again, or that its columns' names cannot, as a clause."""
    for number, (name, dtype) in enumerate(frame.dtypes.items()):
        try:
            _came_back(pa, frame.iloc[:0, [number]].set_axis(["0"], axis=1))
        except Exception:  # noqa: BLE001 - as above
            return f"the column {name!r} is of the type {dtype}, which could not be read again"
    try:
        _came_back(pa, frame.iloc[:0].set_axis(range(len(frame.columns)), axis=1))
    except Exception:  # noqa: BLE001 - as above
        return ""
    return f"the names of the columns are of the type {_kind(frame.columns)}, which could not be read again"


def _came_back(pa: Any, frame: Any) -> Any:
    header, table = _to_table(pa, frame)
    return _decode_frame(header, bytearray(b"".join(_arrow_stream(pa, table, _places(frame)))))


def _difference(before: Any, after: Any) -> str:
    """Return in what the types, names or labels of two frames without rows differ, as a clause; "" if in nothing."""
    if not _same_index(before.columns, after.columns):
        return f"the names of the columns are of the type {_kind(before.columns)}, and would come back as another"
    for name, one, other in zip(before.columns, before.dtypes, after.dtypes, strict=True):
        if not _same_dtype(one, other):
            return f"the column {name!r} is of the type {one}, and would come back as {other}"
    if not _same_index(before.index, after.index):
        return f"{_index_place(before.index.name)} is of the type {_kind(before.index)}, and would come back as another"
    return ""


def _kind(index: Any) -> str:
    return f"{type(index).__name__}[{', '.join(str(kind) for kind in _dtypes(index))}]"


def _dtypes(index: Any) -> list[Any]:
    return [index.get_level_values(level).dtype for level in range(index.nlevels)]


def _same_index(before: Any, after: Any) -> bool:
    return (
        type(before) is type(after)
        and all(_same_dtype(*pair) for pair in zip(_dtypes(before), _dtypes(after), strict=True))
        and _same_items(before.names, after.names)
        and _same_items(before, after)
        and getattr(before, "freqstr", None) == getattr(after, "freqstr", None)
    )


def _same_dtype(before: Any, after: Any) -> bool:
    if before != after or str(before) != str(after):
        return False
    return not hasattr(before, "categories") or _same_items(before.categories, after.categories)


def _same_items(before: Any, after: Any) -> bool:
    return len(before) == len(after) and all(_same(*pair) for pair in zip(before, after, strict=True))


def _has_objects(index: Any) -> bool:
    """Whether there is something in an index that Arrow may give back as something else."""
    from pandas.api.types import infer_dtype

    levels = [index.get_level_values(level) for level in range(index.nlevels)]
    return any(one.dtype == object and (one.hasnans or infer_dtype(one) not in ("string", "bytes")) for one in levels)


def _require_plain(frame: Any) -> None:
    """Refuse what Arrow takes and does not give back: periods, intervals, sparse columns, names that are used twice."""
    import pandas as pd

    if len(frame) and not len(frame.columns):
        raise TransferError("the data frame has rows and no columns; push its index as a series")
    if not frame.columns.is_unique:
        raise TransferError("the data frame has two columns of the same name; rename one")
    for name, values in _parts(frame):
        dtype = values.dtype
        inner = dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype
        if isinstance(inner, (pd.PeriodDtype, pd.IntervalDtype, pd.SparseDtype)):
            raise TransferError(f"{name} is of the type {dtype}, which Arrow has no type for; convert it")
        if str(dtype).startswith("complex"):
            raise TransferError(f"{name} holds complex numbers, which Arrow has no type for; push it as an array")


def _columns_of_objects(frame: Any, table: Any) -> list[tuple[int, bool]]:
    """Return which columns hold Python objects, having made sure that they come back as they are.

    With each stands whether what is missing in it is nan, not None.
    """
    from pandas.api.types import infer_dtype

    found = []
    for index, (name, column) in enumerate(frame.items()):
        if column.dtype != object:
            continue
        missing = {type(one) for one in column[column.isna()]}
        if missing not in (set(), {float}, {type(None)}):
            raise TransferError(f"the column {name!r} has missing values of several kinds (None, nan, NA); use one")
        found.append((index, missing == {float}))
        if infer_dtype(column, skipna=True) in ("string", "bytes"):
            continue
        for before, after in zip(column, table.column(index).to_pylist(), strict=True):
            if not _same(before, after):
                raise TransferError(
                    f"the column {name!r} holds {str(before)[:80]!r}, which would come back from Arrow as "
                    f"{str(after)[:80]!r}; convert it"
                )
    return found


def _same(before: Any, after: Any) -> bool:
    """Whether what comes back is equal and of the same type; Arrow's null stands for what is missing."""
    if after is None:
        return before is None or (type(before) is float and math.isnan(before))
    if type(before) is not type(after):
        return False
    if isinstance(before, (list, tuple)):
        return _same_items(before, after)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_same(before[key], after[key]) for key in before)
    if hasattr(before, "as_tuple"):
        # Decimals: 2 and 2.00 are equal, and not the same.
        return bool(before.as_tuple() == after.as_tuple())
    return bool(before == after) or (before != before and after != after)  # noqa: PLR0124 - so is what is no number


def _encode_table(value: Any) -> tuple[dict[str, Any], list[Buffer]]:
    pa = _pyarrow("A table")
    if type(value) is not pa.Table:
        raise TransferError(_why_not(value, "the value"))
    return {"kind": "table"}, _arrow_stream(pa, value, [f"the column {name!r}" for name in value.column_names])


def _arrow_stream(pa: Any, table: Any, places: Sequence[str]) -> list[Buffer]:
    # An index of numbers in a row is no column there.
    for field, place in zip(table.schema, places, strict=False):
        _require_known(pa, field.type, place)
    table = _without_null_type(pa, table)
    sink = _Sink()
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), table.schema) as writer:
        writer.write_table(table)
        if not table.num_rows:
            # Nothing was written, and with it no categories.
            columns = [column.combine_chunks() for column in table.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=table.schema))
    return [memoryview(buffer) for buffer in sink.buffers]


class _Sink:
    """A file that keeps what is written to it without copying it."""

    closed = False

    def __init__(self) -> None:
        self.buffers: list[Any] = []
        self._size = 0

    def write(self, data: Any) -> int:
        self.buffers.append(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """What was written stays."""


def _without_null_type(pa: Any, table: Any) -> Any:
    """A column in which everything is missing takes no bytes, however long; as text it takes some."""
    for index, field in enumerate(table.schema):
        if pa.types.is_null(field.type):
            table = table.set_column(index, field.with_type(pa.string()), table.column(index).cast(pa.string()))
    return table


def _decode_frame(header: dict[str, Any], data: bytearray) -> Any:
    import pandas as pd

    table = _read_table(data)
    frame = table.to_pandas()
    for index, nan in header.get("objects") or ():
        values = _objects(table.column(index))
        if nan:
            values[[value is None for value in values]] = math.nan
        frame.isetitem(index, pd.Series(values, index=frame.index, dtype=object))
    if header.get("object_index"):
        frame.index = frame.index.astype(object)
    if header.get("labels"):
        frame.columns = _labels_from_json(header["labels"])
    frame.index.names, frame.columns.names = ([_from_json(name) for name in names] for names in header["names"])
    for axis, freq in zip((frame.index, frame.columns), header["freq"], strict=True):
        if freq:
            # Arrow does not know it; pandas makes sure that it is true.
            axis.freq = str(freq)[:100]
    return frame


def _objects(column: Any) -> Any:
    """Return an array of a column's values as Python has them."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.to_numpy().copy()
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values


def _decode_series(header: dict[str, Any], data: bytearray) -> Any:
    return _decode_frame(header, data).iloc[:, 0].rename(_from_json(header.get("name")))


def _decode_table(_header: dict[str, Any], data: bytearray) -> Any:
    return _read_table(data)


def _read_table(data: bytearray) -> Any:
    """Read an Arrow stream whoever wrote it: its types are known ones, its contents valid, its size what came."""
    pa = _pyarrow("The value")
    buffer = pa.py_buffer(data)
    _require_uncompressed(pa, buffer)
    with pa.ipc.open_stream(buffer) as reader:
        for field in reader.schema:
            _require_known(pa, field.type, f"the column {field.name!r}")
            if pa.types.is_null(field.type):
                raise TransferError("the table has a column without a type, which takes no bytes")
        table = reader.read_all()
    table.validate(full=True)
    if table.num_columns and table.num_rows > 8 * len(data):
        raise TransferError("the table claims to have more rows than came")
    kept = {key: text for key, text in (table.schema.metadata or {}).items() if key == b"pandas"}
    schema = pa.schema([field.remove_metadata() for field in table.schema], metadata=kept)
    return pa.Table.from_arrays(table.columns, schema=schema)


def _require_known(pa: Any, kind: Any, place: str, *, inner: bool = False) -> None:
    """Refuse types that code could hide behind, or that claim more rows than they have bytes."""
    types = pa.types
    simple = (
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_temporal,
        types.is_string,
        types.is_large_string,
        types.is_binary,
        types.is_large_binary,
    )
    if any(is_one(kind) for is_one in simple) or (types.is_null(kind) and not inner):
        return
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        _require_known(pa, kind.value_type, place, inner=True)
    elif types.is_struct(kind) and kind.num_fields:
        for index in range(kind.num_fields):
            _require_known(pa, kind.field(index).type, place, inner=True)
    else:
        raise TransferError(f"{place} is of Arrow's type {str(kind)[:80]}, which does not travel; convert it")


def _require_uncompressed(pa: Any, buffer: Any) -> None:
    """Refuse compressed batches: some bytes of them could fill all memory."""
    source = pa.BufferReader(buffer)
    while True:
        try:
            message = pa.ipc.read_message(source)
        except EOFError:
            return
        if message.type != "schema" and _is_compressed(message.metadata.to_pybytes()):
            raise TransferError("the Arrow data are compressed, which is not expected")


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch, or the one in a dictionary batch, names a compression (Arrow's Message.fbs)."""
    message = struct.unpack_from("<I", metadata)[0]
    kind = metadata[_field(metadata, message, 1)]
    batch = _table(metadata, _field(metadata, message, 2))
    if kind == 2:
        batch = _table(metadata, _field(metadata, batch, 1))
    elif kind != 3:
        raise TransferError("the Arrow data hold something else than a table")
    return _field(metadata, batch, 3) != 0


def _field(metadata: bytes, table: int, number: int) -> int:
    """Return where a field of a flat-buffer's table lies; 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, vtable)[0]
    place = 4 + 2 * number
    offset: int = struct.unpack_from("<H", metadata, vtable + place)[0] if place < size else 0
    return table + offset if offset else 0


def _table(metadata: bytes, place: int) -> int:
    return place + int(struct.unpack_from("<I", metadata, place)[0])


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError:
        raise TransferError(f"{what} travels as Arrow, and pyarrow is not installed {WHERE}") from None
    return pa
