"""Corpora: reading, tokenising, what is left out, and the order in which examples are trained on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from common.job_config import CorpusFile
from learner.corpus import Corpus, Encoder, Tokenisation, read_pairs
from learner.sft import EpochOrder
from recipes.tiny_model import create_tokenizer

PAIRS = [(f"{i} + 1 =", f"<think>{i} + 1</think><answer>{i + 1}</answer>") for i in range(600)]


def parquet(path: Path, pairs: list[tuple[Any, Any]] = PAIRS) -> Path:
    pq.write_table(
        pa.table({"id": ["x"] * len(pairs), "prompt": [p for p, _ in pairs], "response": [r for _, r in pairs]}), path
    )
    return path


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **options: Any) -> list[tuple[str, str]]:
    return list(read_pairs(CorpusFile(path=str(path), **options)))


def tokenise(files: list[CorpusFile], out: Path, *, max_tokens: int = 1000, tokenizer: Any = None) -> Tokenisation:
    work = Tokenisation(files, Encoder(tokenizer or create_tokenizer(), "m"), max_tokens, out)
    while not work.poll(0.01):
        pass
    return work


def test_parquet_and_json_lines_read_the_same(tmp_path: Path) -> None:
    rows = [{"prompt": p, "response": r, "kind": "reasoning"} for p, r in PAIRS]
    assert read(parquet(tmp_path / "a.parquet")) == PAIRS
    assert read(jsonl(tmp_path / "a.jsonl", rows)) == PAIRS
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert read(tmp_path / "a.jsonl.gz") == PAIRS
    assert read(tmp_path / "a.parquet", limit=300) == PAIRS[:300]


def test_a_half_written_parquet_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = parquet(tmp_path / "half.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"half\.parquet: not a whole Parquet file .*run the stage that writes it again"
    ):
        read(path)


def test_damage_inside_a_parquet_file_is_found(tmp_path: Path) -> None:
    path = parquet(tmp_path / "bad.parquet")
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"bad\.parquet: not a whole Parquet file"):
        read(path)


def test_bad_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.parquet: row 3: needs text under 'prompt' and 'response'"):
        read(parquet(tmp_path / "a.parquet", [*PAIRS[:2], ("p", None)]))
    with pytest.raises(UserError, match=r"a\.jsonl:2: needs text"):
        read(jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "response": "r"}, {"prompt": 3, "response": "r"}]))
    with pytest.raises(UserError, match=r"a\.jsonl:1: expected an object"):
        read(jsonl(tmp_path / "a.jsonl", [["p", "r"]]))
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "resp')
    with pytest.raises(UserError, match=r"a\.jsonl:1: not JSON"):
        read(tmp_path / "a.jsonl")
    pq.write_table(pa.table({"prompt": ["p"], "completion": ["r"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: no column 'response'"):
        read(tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"a\.jsonl: no examples"):
        read(jsonl(tmp_path / "a.jsonl", []))
    with pytest.raises(UserError, match=r"none\.parquet: no such file"):
        read(tmp_path / "none.parquet")


def test_tokens_on_disk_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = create_tokenizer()
    file = CorpusFile(path=str(parquet(tmp_path / "a.parquet")))
    plain = CorpusFile(path=str(jsonl(tmp_path / "b.jsonl", [{"prompt": "no tags", "response": "at all"}])))
    figures = tokenise([file, plain], tmp_path / "out" / "train").figures
    corpus = Corpus(tmp_path / "out" / "train")
    assert figures.examples == [600, 1]
    assert len(corpus) == 601
    batch = corpus.batch([599, 0, 600])
    for place, (prompt, response) in enumerate([PAIRS[599], PAIRS[0], ("no tags", "at all")]):
        assert tokenizer.decode(batch.prompt(place)) == prompt
        assert tokenizer.decode(batch.completion(place)) == response + "<|end|>"
    assert figures.tokens == int(corpus.starts[-1]) == len(corpus._tokens)
    assert figures.response_tokens == int(corpus.response_lengths_N.sum())


def test_what_is_too_long_or_empty_is_left_out_and_counted_never_cut(tmp_path: Path) -> None:
    rows = [("1 + 1 =", "2"), ("1", "2" * 50), ("", "2"), ("1", ""), ("2 + 2 =", "4")]
    work = tokenise([CorpusFile(path=str(parquet(tmp_path / "a.parquet", rows)))], tmp_path / "t", max_tokens=20)
    assert (work.figures.examples, work.figures.too_long, work.figures.empty) == ([2], 1, 2)
    corpus = Corpus(tmp_path / "t")
    tokenizer = create_tokenizer()
    batch = corpus.batch([0, 1])
    assert [tokenizer.decode(batch.completion(i)) for i in (0, 1)] == ["2<|end|>", "4<|end|>"]


def test_an_example_of_just_the_limit_is_kept(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", PAIRS[:1])
    length = int(tokenise([CorpusFile(path=str(path))], tmp_path / "t").figures.tokens)
    tokenise([CorpusFile(path=str(path))], tmp_path / "t", max_tokens=length)
    with pytest.raises(UserError, match="1 of 1 examples are longer"):
        tokenise([CorpusFile(path=str(path))], tmp_path / "t", max_tokens=length - 1)


def test_more_than_half_too_long_is_refused(tmp_path: Path) -> None:
    long = ("1", "2" * 60)
    half = parquet(tmp_path / "half.parquet", [("1", "2"), long])
    assert tokenise([CorpusFile(path=str(half))], tmp_path / "t", max_tokens=20).figures.too_long == 1
    most = parquet(tmp_path / "most.parquet", [("1", "2"), long, long])
    with pytest.raises(
        UserError, match=r"most\.parquet: 2 of 3 examples are longer than 20 tokens.*raise sft\.max_tokens"
    ):
        tokenise([CorpusFile(path=str(most))], tmp_path / "t", max_tokens=20)
    empty = parquet(tmp_path / "empty.parquet", [("1", ""), ("", "1")])
    with pytest.raises(UserError, match=r"empty\.parquet: nothing to train on: 2 of 2"):
        tokenise([CorpusFile(path=str(empty))], tmp_path / "t")


class Llama:
    """A tokenizer that opens sequences with <s>; each character is a token."""

    bos_token, eos_token_id = "<s>", 9

    def __call__(self, texts: list[str], add_special_tokens: bool = True, verbose: bool = True) -> dict[str, Any]:
        opening = [1] if add_special_tokens else []
        return {
            "input_ids": [
                [*opening, *([1] if t.startswith("<s>") else []), *map(ord, t.removeprefix("<s>"))] for t in texts
            ]
        }


def test_a_prompt_has_its_opening_token_once() -> None:
    encoder = Encoder(Llama(), "m")
    (plain, response), (rendered, _) = encoder.encode([("a", "b"), ("<s>a", "b")])
    assert plain == rendered == [1, ord("a")]
    assert response == [ord("b"), 9]


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = Llama()
    tokenizer.eos_token_id = None  # type: ignore[assignment]
    with pytest.raises(UserError, match="no end-of-sequence token"):
        Encoder(tokenizer, "m")


def test_an_epoch_takes_weighted_files_so_often() -> None:
    order = EpochOrder([4, 10, 3], [2.0, 0.5, 1.0], seed=1)
    assert order.size == 8 + 5 + 3
    epochs = [order.places(e * order.size, (e + 1) * order.size) for e in range(2)]
    halves = []
    for epoch in epochs:
        counts = np.bincount(epoch, minlength=17)
        assert counts[:4].tolist() == [2] * 4
        assert sorted(counts[4:14].tolist()) == [0] * 5 + [1] * 5
        assert counts[14:].tolist() == [1] * 3
        halves.append(counts[4:14].tolist())
    assert halves[0] != halves[1]
    assert epochs[0] != epochs[1]


def test_places_are_the_same_however_they_are_asked_for() -> None:
    at_once = EpochOrder([7], seed=5).places(0, 40)
    one_by_one = EpochOrder([7], seed=5)
    assert [one_by_one.places(place, place + 1)[0] for place in range(40)] == at_once
    assert EpochOrder([7], seed=5).places(20, 40) == at_once[20:]


def test_without_shuffling_the_files_order_stands() -> None:
    assert EpochOrder([3, 2], [1.0, 2.0], seed=0, shuffle=False).places(0, 9) == [0, 1, 2, 3, 4, 3, 4, 0, 1]


def test_weights_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="weight"):
        EpochOrder([3], [0.1], seed=0)
