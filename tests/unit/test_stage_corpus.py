"""Corpus files: what is written is read, half a file never stands, every wrong row is named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.errors import UserError
from recipes.stages.corpus import (
    CorpusRow,
    HelpfulPair,
    SafetyLabel,
    concatenate,
    iterate_rows,
    read_corpus,
    read_rows,
    write_corpus,
    write_rows,
)

ROW = CorpusRow(
    id="p/1#0",
    source="gsm8k",
    language="en",
    problem="2 + 2?",
    prompt="User: 2 + 2?\n",
    response="<think>2 + 2 = 4</think><answer>4</answer>",
    kind="reasoning",
    difficulty=0.25,
    num_tokens=17,
    origin="rejection_sample",
)


def _table(path: Path, rows: list[dict[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [
        ROW,
        replace(ROW, id="p/2#1", language=None, difficulty=None, num_tokens=None, response="思考。\u2028ok 🙂"),
    ]
    path = tmp_path / "deep" / "corpus.parquet"
    assert write_corpus(path, rows) == 2
    assert read_corpus(path) == rows
    assert [entry.name for entry in path.parent.iterdir()] == ["corpus.parquet"]
    assert parquet.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_many_rows_are_streamed_in_batches(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    assert write_corpus(path, (replace(ROW, id=str(number)) for number in range(10_001))) == 10_001
    assert [row.id for row in iterate_rows(path, CorpusRow)] == [str(number) for number in range(10_001)]
    assert parquet.ParquetFile(path).num_row_groups == 3


def test_an_empty_corpus_keeps_its_columns(tmp_path: Path) -> None:
    write_corpus(tmp_path / "none.parquet", [])
    assert read_corpus(tmp_path / "none.parquet") == []


def test_preference_rows_survive_the_file(tmp_path: Path) -> None:
    pairs = [HelpfulPair("a", "p", "good", "bad", 1.5, "s"), HelpfulPair("b", "p", "good", "bad", None, "s")]
    labels = [SafetyLabel("a", "p", "r", 1, "s"), SafetyLabel("b", "p", "r", 0, "s")]
    write_rows(tmp_path / "pairs.parquet", pairs, HelpfulPair)
    write_rows(tmp_path / "labels.parquet", labels, SafetyLabel)
    assert read_rows(tmp_path / "pairs.parquet", HelpfulPair) == pairs
    assert read_rows(tmp_path / "labels.parquet", SafetyLabel) == labels


def test_a_file_is_replaced_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    write_corpus(path, [ROW])
    write_corpus(path, [replace(ROW, id="new")])
    assert [row.id for row in read_corpus(path)] == ["new"]


def test_a_stage_that_dies_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    write_corpus(path, [ROW])

    def rows() -> Iterator[CorpusRow]:
        for number in range(5000):
            yield replace(ROW, id=str(number))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(path, rows())
    assert read_corpus(path) == [ROW]
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus.parquet"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response": " \n"}, "row 2: column 'response' is empty"),
        ({"prompt": None}, "row 2: column 'prompt' is null; text is required"),
        ({"prompt": 7}, "row 2: column 'prompt' must be text, got 7"),
        ({"kind": "maths"}, "row 2: kind 'maths' is not known; one of reasoning, general"),
        ({"difficulty": 1.5}, "row 2: difficulty 1.5 must lie in 0 to 1"),
        ({"difficulty": float("nan")}, "row 2: column 'difficulty' is nan"),
        ({"num_tokens": -1}, "row 2: num_tokens -1 must not be negative"),
        ({"num_tokens": True}, "row 2: column 'num_tokens' must be a whole number, got True"),
        ({"response": "\ud800"}, "row 2: column 'response' is not text in UTF-8"),
        ({"id": ROW.id}, "row 2: id 'p/1#0' of origin 'rejection_sample' is taken by row 1"),
    ],
)
def test_a_wrong_row_is_named_when_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "corpus.parquet"
    with pytest.raises(UserError, match=r"corpus\.parquet") as caught:
        write_corpus(path, [ROW, replace(ROW, **({"id": "other"} | change))])
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_row_is_named_when_read(tmp_path: Path) -> None:
    path = _table(tmp_path / "c.parquet", [asdict(ROW), asdict(replace(ROW, id="b")) | {"response": None}])
    with pytest.raises(UserError, match=r"c\.parquet: row 2: column 'response' is null"):
        read_corpus(path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    row = asdict(ROW)
    del row["response"], row["origin"]
    with pytest.raises(UserError, match=r"no column response, origin; a file of CorpusRow has id, .*this one has id"):
        read_corpus(_table(tmp_path / "c.parquet", [row]))


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 1: column 'num_tokens' must be a whole number, got '17'"):
        read_corpus(_table(tmp_path / "c.parquet", [asdict(ROW) | {"num_tokens": "17"}]))


def test_narrow_and_dictionary_columns_of_other_writers_are_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([asdict(ROW)])
    place = table.schema.get_field_index
    table = table.set_column(place("num_tokens"), "num_tokens", table["num_tokens"].cast(pa.int32()))
    table = table.set_column(place("difficulty"), "difficulty", table["difficulty"].cast(pa.float32()))
    table = table.set_column(place("source"), "source", table["source"].dictionary_encode())
    parquet.write_table(table.append_column("more", [["ignored"]]), tmp_path / "c.parquet")
    assert read_corpus(tmp_path / "c.parquet") == [ROW]


@pytest.mark.parametrize("keep", [0, 3, 200, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "c.parquet"
    write_corpus(path, [replace(ROW, id=str(number)) for number in range(500)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"c\.parquet: cannot be read as Parquet after row 0 .*run the stage"):
        read_corpus(path)


def test_damage_inside_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    write_corpus(path, [replace(ROW, id=str(number), response=f"{number:x}" * 50) for number in range(500)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"c\.parquet"):
        read_corpus(path)


def test_a_missing_file_and_a_text_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; run the stage that writes it"):
        read_corpus(tmp_path / "c.parquet")
    (tmp_path / "c.parquet").write_text("prompt,response\n")
    with pytest.raises(UserError, match="of another format"):
        read_corpus(tmp_path / "c.parquet")


def test_users_json_lines_need_prompt_and_response_only(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl.gz"
    lines = [{"prompt": "p", "response": "r"}, {"prompt": "q", "response": "s", "id": "x", "language": "de"}]
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    first, second = read_corpus(path)
    assert first == CorpusRow("mine:1", "mine", None, "p", "p", "r", "reasoning", None, None, "mine.jsonl.gz")
    assert (second.id, second.language, second.problem) == ("x", "de", "q")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "p"}', r"mine\.jsonl:2: field response is missing or null; the line has prompt"),
        ("{", r"mine\.jsonl:2: not a JSON line"),
        ("[1]", r"mine\.jsonl:2: expected a JSON object, found list"),
        ("", r"mine\.jsonl:2: not a JSON line"),
        ('{"prompt": "p", "response": 3}', r"mine\.jsonl:2: column 'response' must be text, got 3"),
    ],
)
def test_a_wrong_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "p", "response": "r"}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        read_corpus(path)


def test_gzip_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "p", "response": "r"}\n' * 2)[:-6])
    with pytest.raises(UserError, match=r"mine\.jsonl\.gz:\d+: cannot be read"):
        read_corpus(path)


def test_files_are_joined_in_order_and_counted(tmp_path: Path) -> None:
    a, b, out = tmp_path / "a.parquet", tmp_path / "b.jsonl", tmp_path / "all.parquet"
    write_corpus(a, [ROW, replace(ROW, id="2")])
    b.write_text('{"prompt": "p", "response": "r", "id": "2"}\n')
    assert concatenate([a, b], out, CorpusRow) == {str(a): 2, str(b): 1}
    assert [(row.origin, row.id) for row in read_corpus(out)] == [
        ("rejection_sample", "p/1#0"),
        ("rejection_sample", "2"),
        ("b.jsonl", "2"),
    ]


def test_a_row_in_two_files_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a.parquet", [ROW])
    write_corpus(tmp_path / "b.parquet", [ROW])
    with pytest.raises(UserError, match=r"row 2: id 'p/1#0' of origin 'rejection_sample' is taken by row 1"):
        concatenate([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "all.parquet", CorpusRow)
    assert not (tmp_path / "all.parquet").exists()
