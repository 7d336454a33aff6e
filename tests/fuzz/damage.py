"""Damaged and hostile files, made from good ones: hypothesis strategies of bytes."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

NUMBERS = (0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
PIECES = (
    b"", b"\0", b"\0" * 128, b"\xff" * 16, b"TAG" + b"x" * 125,
    b"APETAGEX" + b"\xd0\x07" + b"\0" * 22, b"ID3\x04\0\0\0\0\x02\0" + b"\0" * 256,
    b"LIST\xff\xff\xff\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\r\n", b"\n", b"{", b"[" * 100,
    b'"', b"*a", b"&a ", b"!!python/object:os.system ", b"\x1b[2J",
)  # fmt: skip

# --------------------------------------------------------------------------- bytes

_place = st.one_of(st.integers(0, 80), st.integers(0, 2**16))
_number = st.tuples(
    st.just("number"), _place, st.sampled_from(NUMBERS), st.sampled_from("BHIQ"),
    st.sampled_from("<>"),
)  # fmt: skip
_edits = st.one_of(
    st.tuples(st.just("byte"), _place, st.integers(0, 255)),
    _number,
    st.tuples(st.just("cut"), _place),
    st.tuples(st.just("remove"), _place, st.integers(1, 300)),
    st.tuples(st.just("repeat"), _place, st.integers(1, 300), st.integers(1, 20)),
    st.tuples(st.just("insert"), _place, st.sampled_from(PIECES)),
    st.tuples(st.just("append"), st.sampled_from(PIECES)),
)


def _edited(data: bytes, edit: tuple) -> bytes:
    kind, *values = edit
    if kind == "append":
        return data + values[0]
    place = values[0] % max(1, len(data))
    if kind == "cut":
        return data[:place]
    if kind == "byte":
        return data[:place] + bytes(values[1:2]) + data[place + 1 :]
    if kind == "number":
        _, number, form, order = values
        new = struct.pack(order + form, number % 2 ** (8 * struct.calcsize(form)))
        return data[:place] + new + data[place + len(new) :]
    if kind == "remove":
        return data[:place] + data[place + values[1] :]
    if kind == "repeat":
        return data[:place] + data[place : place + values[1]] * values[2] + data[place:]
    return data[:place] + values[1] + data[place:]


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes], most: int = 5) -> bytes:
    """One of the seeds with up to ``most`` edits, or two of them one after the other."""
    data = draw(st.sampled_from(seeds))
    for edit in draw(st.lists(_edits, max_size=most)):
        data = _edited(data, edit)
    if draw(st.integers(0, 15)) == 15:
        data += draw(st.sampled_from(seeds))
    return data


# --------------------------------------------------------------------------- values

_DEEP, _LONG = "@deep@", "@long@"  # what json.dumps does not write by itself
_RAW = {f'"{_DEEP}"': "[" * 20_000 + "]" * 20_000, f'"{_LONG}"': "9" * 5_000}
HOSTILE = (
    None, True, False, -1, 0, 1, 2, 3, 1.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), 10**9,
    2**31, 2**53 + 1, 2**63, 10**40, "", "x", "0", "-1", "1e9", "nan", "٣", "9" * 5_000,
    "\0", "\ud800", "\u2028", "\x1b[2J", "[red]", "<script>", "a\nb", "../../../etc/passwd",
    "/etc/passwd", "~/x",
    "file:///etc/passwd", "x" * 10_000, [], {}, [None], [[]], [1, "x"], [0] * 1_000, {"": {}},
    _DEEP, _LONG,
)  # fmt: skip


@st.composite
def altered(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """A JSON value with up to ``most`` parts replaced by hostile ones, left out, or swapped."""
    for _ in range(draw(st.integers(0, most))):
        value = draw(_changed(value))
    return value


@st.composite
def _changed(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 9:
        if isinstance(value, str | int | float) and draw(st.booleans()):
            return draw(st.sampled_from(_near(value)))
        return draw(st.sampled_from(HOSTILE))
    if isinstance(value, list):
        place = draw(st.integers(0, len(value) - 1))
        new = [draw(_changed(value[place]))] if draw(st.integers(0, 3)) else []
        return value[:place] + new + value[place + 1 :]
    key = draw(st.sampled_from(sorted(value, key=str)))
    action = draw(st.integers(0, 9))
    if action == 0:
        return {k: v for k, v in value.items() if k != key}
    if action == 1:
        return value | {draw(st.sampled_from(("x", "", "format", "\ud800"))): value[key]}
    if action == 2:
        return value | {key: value[draw(st.sampled_from(sorted(value, key=str)))]}
    return value | {key: draw(_changed(value[key]))}


def _near(value: str | int | float) -> tuple:
    """Values of the same kind, a little and very much different."""
    if isinstance(value, str):
        return value + "x", value.upper(), value[:-1], value + "\n", value * 100
    try:
        return -value, value + 1, value - 1, value * 2, value * 10**6, str(value), float(value)
    except OverflowError:
        return -value, str(value)[:10]


def as_json(value: Any) -> bytes:
    """Values as JSON, surrogates and NaN as Python writes them."""
    text = json.dumps(value)
    for mark, raw in _RAW.items():
        text = text.replace(mark, raw)
    return text.encode()


@st.composite
def json_files(draw: st.DrawFn, values: Sequence[Any]) -> bytes:
    """JSON with altered values, or with damaged text."""
    chosen = draw(st.sampled_from(values))
    if draw(st.booleans()):
        return as_json(draw(altered(chosen)))
    return draw(damaged([as_json(chosen)]))


@st.composite
def json_lines(draw: st.DrawFn, lines: Sequence[Any]) -> bytes:
    """JSON Lines with altered values, or with damaged text."""
    chosen = [draw(altered(line)) for line in lines]
    ending = draw(st.sampled_from((b"\n", b"\r\n", b"\n\n", b"\xe2\x80\xa8")))
    whole = ending.join(map(as_json, chosen))
    return whole if draw(st.booleans()) else draw(damaged([whole]))


@st.composite
def yaml_files(draw: st.DrawFn, texts: Sequence[str]) -> bytes:
    """YAML with altered values, with damaged text, or with aliases of aliases."""
    text = draw(st.sampled_from(texts))
    action = draw(st.integers(0, 4))
    if action == 0:
        return text.encode() + draw(_aliases())
    if action == 1:
        return draw(damaged([text.encode()]))
    value = draw(altered(yaml.safe_load(text)))
    return as_json(value)  # JSON is YAML, but for what it may hold


@st.composite
def _aliases(draw: st.DrawFn) -> bytes:
    """Lists of lists, each named once and referred to many times."""
    levels, width = draw(st.integers(1, 14)), draw(st.integers(1, 12))
    key = draw(st.sampled_from(("stages", "x", "data", "model")))
    lines = ["a0: &a0 [1]"]
    for level in range(1, levels):
        items = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{items}]")
    merge = draw(st.sampled_from((f"{key}: *a{levels - 1}", f"{key}: {{<<: *a{levels - 1}}}", "")))
    return ("\n" + "\n".join([*lines, merge]) + "\n").encode()


# --------------------------------------------------------------------------- containers


@st.composite
def safetensors_files(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Files whose header tells something else than their data, or damaged anywhere."""
    seed = draw(st.sampled_from(seeds))
    if draw(st.booleans()):
        return draw(damaged([seed]))
    size = struct.unpack("<Q", seed[:8])[0]
    header, data = json.loads(seed[8 : 8 + size]), seed[8 + size :]
    text = as_json(draw(altered(header, most=4)))
    text += b" " * (-len(text) % 8)
    if draw(st.integers(0, 3)) == 0:
        data = draw(damaged([data]))
    return struct.pack("<Q", len(text)) + text + data


@st.composite
def tar_files(draw: st.DrawFn, members: Sequence[tuple[str, bytes]]) -> bytes:
    """Archives with other members, other JSON, links, devices, odd names and sizes; compressed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=draw(st.sampled_from((0, 1, 2)))) as tar:
        for name, whole in members:
            for _ in range(draw(st.sampled_from((1, 1, 1, 1, 0, 2)))):
                data = whole
                entry = tarfile.TarInfo(draw(st.sampled_from((name,) * 5 + ("../x", "x", "/x"))))
                if name.endswith(".json") and draw(st.booleans()):
                    data = as_json(draw(altered(json.loads(whole))))
                elif draw(st.integers(0, 3)) == 3:
                    data = draw(damaged([whole]))
                kinds = (tarfile.REGTYPE,) * 6 + (tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
                entry.type, entry.size = draw(st.sampled_from(kinds)), len(data)
                if entry.type == tarfile.SYMTYPE:
                    entry.linkname = draw(st.sampled_from(("/etc/passwd", name, "x")))
                tar.addfile(entry, io.BytesIO(data))
    packed = file.getvalue()
    action = draw(st.integers(0, 5))
    if action == 5:
        return gzip.compress(packed)
    return draw(damaged([packed])) if action > 2 else packed
