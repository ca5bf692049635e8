"""How variables travel: what comes back is equal, what cannot says why, what is broken or hostile is refused."""

from __future__ import annotations

import datetime as dt
import io
import math
import pickle
import sys
from decimal import Decimal
from typing import Any

import pytest

from sandbox_kernel.library import values
from sandbox_kernel.library.values import TransferError, decode, encode

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

PIECE = 1000
UTC = dt.timezone.utc
NOW = dt.datetime(2026, 5, 4, 3, 2, 1, 7, tzinfo=dt.timezone(dt.timedelta(hours=2)))


def travelled(value: Any) -> Any:
    """Return what arrives of a value that is cut into pieces on its way."""
    header, buffers = encode(value)
    whole = b"".join(map(bytes, buffers))
    return decode(header, [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)])


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**200),
        2**20_000,
        1.5,
        -0.0,
        math.inf,
        "",
        "ü\ud800\0",
        b"\0\xff",
        bytearray(b"x"),
        3 - 2j,
        [],
        [1, [2.0, None, "x"]],
        {"a": {"b": [1]}},
        {"$": 1, 2: (3, {4})},
        (1, (2,)),
        {1, "x", (2, 3)},
        frozenset({1}),
        NOW,
        NOW.replace(tzinfo=None, fold=1),
        NOW.date(),
        NOW.timetz(),
        dt.timedelta(days=-1, microseconds=3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    came = travelled(value)
    assert came == value
    assert type(came) is type(value)
    assert getattr(came, "fold", 0) == getattr(value, "fold", 0)


def test_nan_comes_back() -> None:
    assert math.isnan(travelled(math.nan))
    assert math.copysign(1, travelled(-0.0)) == -1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20)[::3],
        np.array(7, dtype=">i2"),
        np.array(["2020-01-01", "NaT"], "M8[ns]"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["a", "bc"]),
        np.zeros((0, 3), bool),
        np.array([1 + 2j], dtype="c8"),
        np.random.default_rng(1).random((100, 100)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_array_comes_back_equal_and_writable(array: Any) -> None:
    came = travelled(array)
    np.testing.assert_array_equal(came, array)
    assert (came.dtype, came.shape, type(came)) == (array.dtype, array.shape, type(array))
    assert came.flags.writeable
    assert came.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc


def test_number_of_numpy_comes_back_as_one() -> None:
    came = travelled(np.float32(1.5))
    assert (type(came), came) == (np.float32, 1.5)


def frame(rows: int = 50) -> Any:
    """A data frame with one column of most types."""
    times = pd.date_range("2024-03-30", periods=rows, freq="h", tz="Europe/Oslo")
    letters = ["a", "b", None] * rows
    return pd.DataFrame(
        {
            "integer": np.arange(rows, dtype="int16"),
            "float": np.where(np.arange(rows) % 7, np.arange(rows) / 3, np.nan),
            "bool": np.arange(rows) % 2 == 0,
            "nullable": pd.array([1, None] * (rows // 2), dtype="Int64"),
            "text": pd.Series(letters[:rows], dtype="str" if int(pd.__version__[0]) > 2 else "string"),
            "objects": pd.Series(letters[:rows], dtype=object),
            "category": pd.Categorical(letters[:rows], categories=["z", "b", "a"], ordered=True),
            "moment": times,
            "naive": times.tz_localize(None),
            "span": pd.to_timedelta(np.arange(rows), unit="s"),
            "lists": [[1, 2], None] * (rows // 2),
            "days": [dt.date(2020, 1, 2)] * rows,
            "bytes": [b"x", None] * (rows // 2),
        }
    )


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(5, 55, name="row"),
        pd.RangeIndex(0, 100, 2),
        pd.date_range("2020", periods=50, freq="D", tz="UTC", name="when"),
        pd.MultiIndex.from_product([range(25), ["x", "y"]], names=["one", None]),
        pd.CategoricalIndex(["x", "y"] * 25, name="category"),
        pd.Index([f"row {row}" for row in range(50)], dtype=object),
        pd.Index(np.arange(50) / 2),
    ],
    ids=lambda index: type(index).__name__,
)
def test_data_frame_comes_back_equal(index: Any) -> None:
    before = frame().set_axis(index)
    pd.testing.assert_frame_equal(travelled(before), before)


@pytest.mark.parametrize(
    "columns",
    [
        [3, 1],
        [0.5, math.nan],
        [True, False],
        ["1", 1],
        pd.Index(["x", None], dtype=object),
        pd.Index([("a", 1), ("b", 2)], tupleize_cols=False),
        pd.Index(["x", "y"], name=("names", 1)),
        pd.Index([4, 5], dtype="uint8"),
        pd.RangeIndex(2, 6, 2, name=7),
        pd.CategoricalIndex(["x", "y"], categories=["y", "x", "z"], ordered=True),
        pd.CategoricalIndex([2, 1]),
        pd.date_range("2020", periods=2, freq="D", tz="UTC"),
        pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["l", 7]),
        pd.MultiIndex.from_tuples([("a", True), (None, False)]),
    ],
    ids=repr,
)
def test_names_of_columns_come_back(columns: Any) -> None:
    before = pd.DataFrame([[1, 2.0], [3, 4.0]], columns=columns)
    untouched = before.copy()
    came = travelled(before)
    pd.testing.assert_frame_equal(came, before, check_freq=True)
    assert came.columns.identical(before.columns)
    assert list(map(type, came.columns)) == list(map(type, before.columns))
    assert getattr(came.columns, "freq", None) == getattr(before.columns, "freq", None)
    assert before.columns.identical(untouched.columns)


@pytest.mark.parametrize("name", [7, ("a", 1), None, True], ids=repr)
def test_names_of_an_index_come_back(name: object) -> None:
    before = pd.DataFrame({"a": [1]}, index=pd.Index([3], name=name))
    assert travelled(before).index.identical(before.index)
    assert before.index.name == name


def test_empty_frames_come_back() -> None:
    for before in (pd.DataFrame(), pd.DataFrame(columns=["a", "b"]), pd.DataFrame(columns=range(0)), frame().iloc[:0]):
        came = travelled(before)
        pd.testing.assert_frame_equal(came, before)
        assert came.columns.identical(before.columns)


@pytest.mark.parametrize("name", ["n", None, 3, ("a", 1)], ids=repr)
def test_series_comes_back_with_its_name(name: object) -> None:
    before = pd.Series([1, 2], index=["x", "y"], name=name)
    pd.testing.assert_series_equal(travelled(before), before)


def test_missing_values_of_objects_stay_what_they_are() -> None:
    for missing in (None, math.nan):
        before = pd.Series(["x", missing, "y"], dtype=object)
        assert travelled(before).tolist()[1] is None or missing is not None
        pd.testing.assert_series_equal(travelled(before), before)
    nothing = pd.Series([None, None], dtype=object)
    assert travelled(nothing).tolist() == [None, None]


def test_table_comes_back_equal() -> None:
    table = pa.table({"a": [1, None], "b": [["x"], []]})
    assert travelled(table).equals(table)


class Number(int):
    """Would come back as another type."""


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "type object"),
        (len, "only data"),
        (Number(3), "would come back as int"),
        ([{"a": Number(3)}], r"\[0\]\['a'\] is of the type"),
        ([np.zeros(3)], "inside of other values"),
        (CYCLE, "contains itself"),
        (dt.datetime(2020, 1, 1, tzinfo=pd.Timestamp(0, tz="Europe/Oslo").tz), "fixed offsets"),
        (np.array([object()]), "pickled"),
        (np.ma.array([1]), "type numpy.ma"),
        (pd.Timestamp(0), "Timestamp"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns"),
        (pd.DataFrame({"p": pd.period_range("2020", periods=2, freq="D")}), "'p' is of the type period"),
        (pd.DataFrame({"i": pd.interval_range(0, 2)}), "'i' is of the type interval"),
        (pd.DataFrame({"c": [1j]}), "complex"),
        (pd.DataFrame(index=range(3)), "no columns"),
        (pd.DataFrame({"m": pd.Series([1, "x"], dtype=object)}), "Arrow cannot carry the column 'm'"),
        (pd.Series([2**70], dtype=object, name="big"), "Arrow cannot carry the column 'big': .*too large"),
        (pd.DataFrame({"d": [Decimal(2), Decimal("2.00")]}), "'d' holds '2', which would come back .* '2.00'"),
        (pd.DataFrame({"l": pd.Series([[1]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))}), "'l' is of the type list"),
        (pd.DataFrame([[1, 2]], columns=pd.interval_range(0, 2)), "names of the columns are of the type IntervalIndex"),
        (pd.DataFrame([[1]], columns=pd.Index([pd.Timestamp(0)], dtype=object)), "name of the column Timestamp"),
        (pd.DataFrame({"a": [1]}, index=pd.Index([3], name=pd.Timestamp(0))), "name of the index is of the type"),
        (pd.DataFrame({"a": [1, 2]}, index=pd.Index([1, None], dtype=object, name="i")), "index 'i' holds objects"),
        (pd.DataFrame({"m": pd.Series([1, 2.5], dtype=object)}), "'m' holds '1', which would come back .* '1.0'"),
        (pd.DataFrame({"d": [{"a": 1}, {"b": 2}]}), "'d' holds"),
        (pd.DataFrame({"n": pd.Series(["x", None, math.nan], dtype=object)}), "several kinds"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:20],
)
def test_what_cannot_travel_says_why(value: Any, reason: str) -> None:
    with pytest.raises(TransferError, match=reason):
        encode(value)


def test_without_pyarrow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    value = pd.DataFrame({"a": [1]})
    header, buffers = encode(value)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for work in (lambda: encode(value), lambda: decode(header, buffers)):
        with pytest.raises(TransferError, match=r"pyarrow is not installed here.*sandbox-kernel\[data\]"):
            work()


def stream(table: Any, **options: Any) -> bytes:
    """Write a table as a hostile sandbox may."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


class Trap:
    """Tells when it is unpickled."""

    sprung = False

    def __reduce__(self) -> Any:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


def hostile() -> dict[str, tuple[dict[str, Any], bytes]]:
    """What no honest side sends, by what is wrong with it."""
    table = pa.table({"a": list(range(1000)), "b": ["x"] * 1000})
    whole = stream(table)
    frame_header = {"kind": "frame"}
    pickled = np.array([Trap()], dtype=object)
    npy = io.BytesIO()
    np.save(npy, pickled, allow_pickle=True)
    offsets = pa.py_buffer(np.array([0, 2**30, 5], dtype="i4"))
    lying = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"x" * 8)])
    ends = pa.py_buffer(np.array([0, 2], "i4"))
    text = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff\xfe")])
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], "int32"), pa.array([1.0]))
    tables = {
        "rows without bytes": pa.table({"n": pa.nulls(10**7)}),
        "runs": pa.table({"r": runs}),
        "offsets that lie": pa.table({"s": lying}),
        "text that is none": pa.table({"s": text}),
        "extension type": pa.table({"u": pa.array([True]).cast(pa.int8()).cast(pa.bool_()).cast(pa.bool8())}),
        "metadata that lie": table.replace_schema_metadata({b"pandas": b'{"index_columns": 3}'}),
    }
    shape = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(118)
    return {
        **{name: (frame_header, stream(one)) for name, one in tables.items()},
        "unknown kind": ({"kind": "pickle"}, pickle.dumps(Trap())),
        "no kind": ({}, b"1"),
        "no JSON": ({"kind": "json"}, b"[1"),
        "unknown tag": ({"kind": "json"}, b'{"$": ["eval", "1"]}'),
        "deep JSON": ({"kind": "json"}, b"[" * 100_000),
        "pickled array": ({"kind": "npy"}, npy.getvalue()),
        "array without numbers": ({"kind": "npy"}, np.lib.format.magic(1, 0) + b"\x76\x00" + shape),
        "half a table": (frame_header, whole[: len(whole) // 2]),
        "no table": (frame_header, b"nothing"),
        "compressed": (frame_header, stream(table, compression="lz4")),
        "objects that are not there": ({"kind": "frame", "objects": [[7, False]]}, whole),
    }


@pytest.mark.parametrize("case", sorted(hostile()))
def test_hostile_data_are_refused(case: str) -> None:
    header, data = hostile()[case]
    with pytest.raises(TransferError):
        decode(header, [data])
    assert not Trap.sprung


def test_text_that_broke_on_its_way_is_refused_whatever_broke() -> None:
    whole = stream(pa.table({"a": [1, 2, 3], "b": ["x", "yy", None]}))
    for position in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        try:
            decode({"kind": "frame"}, [broken])
        except TransferError:
            continue


def test_fresh_memory_can_be_written_to_and_is_not_copied() -> None:
    header, buffers = encode(np.arange(1000))
    whole = values.fresh_memory(sum(memoryview(one).nbytes for one in buffers))
    whole[:] = b"".join(map(bytes, buffers))
    array = decode(header, [whole])
    assert array.tolist() == list(range(1000))
    whole[-8:] = bytes(8)
    array[0] = 7
    assert (array[0], array[-1]) == (7, 0)
