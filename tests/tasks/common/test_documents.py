"""The reader of JSON and YAML: it agrees with the libraries on what is in order, and refuses the rest in one line."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.common import documents
from tasks.common.documents import DocumentError

# A number of YAML 1.2 alone, such as 1e-3, is a text for the library.
TEXTS = st.text(max_size=9).filter(lambda text: not re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=9,
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(12))


EXAMPLES = int(os.environ.get("ARC_EXAMPLES") or 100)
"""Random inputs of each parser; ARC_EXAMPLES=50000 makes 100,000 in all, some minutes."""
PIECES = st.sampled_from(
    [
        *"[]{}:,-&*!|>'\"#%@? \t\n\r\\0189aeEfn.<~x",
        *("a: ", "- ", "<<: ", "*a", "&a ", "---\n", "...\n", "\\ud800", "\\u0000", "\ufeff", "é"),
        *("!!int ", "!!float ", "!!binary ", "!!bool ", "!!timestamp ", "!!set ", "!!omap ", "!!pairs ", "!!null "),
        *("null", "true", "1e999", "-0", "NaN", "0x", "1_0", "2026-01-01"),
    ]
)
RAW = st.lists(PIECES, max_size=25).map(lambda parts: "".join(parts).encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A document in order, with a few bytes replaced, left out or repeated."""
    value = draw(VALUES)
    text = draw(st.sampled_from([json.dumps(value), json.dumps(value, indent=1), yaml.safe_dump(value)]))
    content = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        part = bytes(content[at : at + draw(st.integers(0, 4))])
        junk = draw(st.sampled_from([b"", 2 * part, b"\xff", b"[", b"}", b"\n", b" &a ", b"\x00"]))
        content[at : at + len(part)] = junk
    return bytes(content)


@pytest.mark.parametrize("parser", ["json", "yaml"])
@settings(max_examples=EXAMPLES, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.binary(max_size=60) | RAW | damaged())
def test_any_bytes_are_what_the_library_reads_or_refused_in_one_line(parser: str, content: bytes) -> None:
    try:
        if parser == "json":
            value, library = documents.parse_json(content, "f"), json.loads(content.decode())
        else:
            value, library = documents.parse_yaml(content.decode(), "f"), yaml.load(content.decode(), yaml.CSafeLoader)
    except UnicodeDecodeError:
        assert parser == "yaml"  # `read_yaml` decodes.
    except DocumentError as error:
        assert str(error).startswith("f")
        assert "\n" not in str(error)
        assert len(str(error)) < 400
    else:
        # Numbers such as 1e3 of YAML 1.2 are texts for the library.
        assert repr(value) == repr(library) or (parser == "yaml" and re.search(rb"[0-9][eE]", content))


@given(VALUES)
def test_json_is_read_as_by_the_library(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        content = text.encode(errors="surrogatepass")
        assert documents.parse_json(content, "f") == json.loads(text)


@given(VALUES)
def test_yaml_is_read_as_by_the_library(value: Any) -> None:
    text = yaml.safe_dump(value)
    try:
        assert documents.parse_yaml(text, "f") == yaml.safe_load(text)
    except DocumentError as error:
        assert "digits" in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 10**5, "line 1, column 1: nested deeper than 50"),
        (b'{"a":' * 10**5, "line 1, column 251: nested deeper than 50"),
        (b'["' + b'\\"' * 10**6 + b"[[" * 40, "broken JSON: Unterminated string starting at: line 1 column 2"),
        (b'{\n "a": ' + b"9" * 5000 + b"}", "line 2, column 7: Exceeds the limit"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b"", "broken JSON: Expecting value: line 1 column 1"),
        (b"\xff", "byte 0 is no UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[:9].hex(),
)
def test_json_is_refused_in_one_line_with_file_and_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.json").write_bytes(content)
    refused(lambda: documents.read_json(tmp_path / "f.json"), str(tmp_path / "f.json"), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: " + b"[" * 10**5, "line 1, column 53: nested deeper than 50"),
        (b"- " * 10**5, "line 1, column 101: nested deeper than 50"),
        (b"x: 1\na: " + b"9" * 5000, "line 2, column 4: an integer has 5000 digits"),
        (b"a: 0x" + b"f" * 5000, "an integer has 5002 digits"),
        (BOMB.encode(), "more than 1000000 values after its aliases are expanded"),
        (MERGES.encode(), "more than 1000000 values after its aliases are expanded"),
        (b"a: &a [*a]", "line 1, column 4: an alias contains itself"),
        (b"a: 1\na: 2", "key 'a' stands twice in one section"),
        (b"a: {b: 1, b: 2}", "line 1, column 4: key 'b' stands twice in one section"),
        (b"? [a]\n: 1", "line 1, column 3: found unhashable key"),
        (b"a: 2026-99-99", "month must be in 1..12"),
        (b"a: [", "is no YAML: line"),
        (b"a: !!int ''", "a value is not of the type that its tag says"),
        (b"a: !!bool x", "a value is not of the type that its tag says"),
        (b"a: !!timestamp x", "a value is not of the type that its tag says"),
        (b"a: !!python/object/apply:os.system [x]", "line 1, column 4: could not determine a constructor"),
        (b"a: \x1b", "is no YAML: unacceptable character #x001b"),
        (b"#" * (2**20 + 1), "has 1048577 bytes; at most 1048576 are allowed"),
        (b"\xff", "byte 0 is no UTF-8"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[:9].hex(),
)
def test_yaml_is_refused_in_one_line_with_file_and_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.yaml").write_bytes(content)
    refused(lambda: documents.read_yaml(tmp_path / "f.yaml"), str(tmp_path / "f.yaml"), message)


def refused(read: Any, name: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(DocumentError) as caught:
        read()
    assert time.monotonic() - began < 5
    text = str(caught.value)
    assert text.startswith(name)
    assert message in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.parametrize("reader", [documents.read_json, documents.read_yaml])
def test_only_regular_files_are_read(tmp_path: Path, reader: Any) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, message in (
        (tmp_path / "fifo", "is no regular file"),
        (Path("/dev/zero"), "is no regular file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "absent", "No such file"),
    ):
        with pytest.raises(DocumentError, match=message):
            reader(path)


def test_a_folder_holds_regular_files_and_links_inside_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("x")
    (folder / "link").symlink_to("sub/file")
    documents.check_folder(folder)
    (folder / "sub" / "fifo").symlink_to(tmp_path / "outside")
    with pytest.raises(DocumentError, match=r"own/sub/fifo is a link out of"):
        documents.check_folder(folder)
    (folder / "sub" / "fifo").unlink()
    os.mkfifo(folder / "sub" / "fifo")
    with pytest.raises(DocumentError, match=r"own/sub/fifo is no regular file"):
        documents.check_folder(folder)
    (folder / "sub" / "fifo").unlink()
    (folder / "circle").symlink_to("circle")
    with pytest.raises(DocumentError, match=r"own/circle"):
        documents.check_folder(folder)


def test_a_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("x")
    (tmp_path / "own").symlink_to(tmp_path / "elsewhere")
    documents.check_folder(tmp_path / "own")
