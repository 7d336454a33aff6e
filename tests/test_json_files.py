"""JSON of other people: values within bounds, or one line that names the file."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from earvae.json_files import JsonError, parse, read, typed


@pytest.mark.parametrize(
    "text,why",
    [
        (b"{'a': 1}", "not JSON .*line 1, column 2"), (b"", "not JSON"), (b"caf\xe9", "UTF-8"),
        (b"[" * 100_000, "too deep"), (b'{"a":' * 100_000, "too deep"), (b"NaN", "no number"),
        (b"[-Infinity]", "no number"), (b"1e999", "finite"), (b"1" * 5000, "64 bits"),
        (b"9223372036854775808", "64 bits"), (b'"\\uD800.wav"', "half a character"),
        (b'{"\\udfff": 1}', "half a character"),
    ],
)  # fmt: skip
def test_what_is_no_json_of_ours_is_refused_by_name(tmp_path, text, why):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(JsonError, match=rf"^{path}: .*{why}"):
        read(path)


def test_a_byte_order_mark_and_names_that_are_not_unicode_are_taken(tmp_path):
    value = {"name": b"caf\xe9".decode("utf-8", "surrogateescape"), "n": [-(2**63), 1.5, None]}
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(value).encode())
    assert read(tmp_path / "x.json") == value


def test_files_are_read_up_to_their_limit(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps("x" * 98))
    assert len(read(tmp_path / "x.json", limit_bytes=100)) == 98
    with pytest.raises(JsonError, match="more than 99 bytes"):
        read(tmp_path / "x.json", limit_bytes=99)
    with pytest.raises(JsonError, match="nothing.json: no such file"):
        read(tmp_path / "nothing.json")


def test_values_are_taken_by_a_typed_model_or_refused_with_what_does_not_fit():
    class Note(BaseModel):
        count: int

    assert typed(Note, parse('{"count": 3}', "n"), "n").count == 3
    with pytest.raises(JsonError, match="^n.json: `count`: .*integer"):
        typed(Note, {"count": [1]}, "n.json")
    with pytest.raises(JsonError, match="^n.json: "):
        typed(Note, [], "n.json")
