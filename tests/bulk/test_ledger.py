"""A ledger is as true after a kill as before: a line that was cut costs nothing but itself."""

from __future__ import annotations

from pathlib import Path

from duotok.bulk.ledger import Ledger


def row(place: int, **more: object) -> dict[str, object]:
    return {"place": place, "id": f"s{place}", **more}


def test_a_line_that_was_cut_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger/train-000000.jsonl"
    first = Ledger.read(path)
    first.append(row(0, codes=["aa"]))
    first.append(row(1, codes=["bb"]))
    first.close()
    path.write_bytes(path.read_bytes()[:-5])  # a kill in the middle of the second line
    second = Ledger.read(path)
    assert list(second.rows) == [0] and second.codes(0) == ["aa"] and second.dirty
    second.append(row(2, codes=["cc"]))
    second.close()
    third = Ledger.read(path)
    assert list(third.rows) == [0, 2] and third.codes(2) == ["cc"] and third.codes(1) is None


def test_the_newest_row_of_a_place_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger.read(path)
    ledger.append(row(0, error="broken"))
    ledger.append(row(0, codes=["aa"]))
    ledger.close()
    again = Ledger.read(path)
    assert "error" not in again.rows[0] and again.has_codes(0)
    again.settle({"x.parquet": {"bytes": 1}}, {0: "hash"})
    settled = Ledger.read(path)
    assert settled.rows == {0: row(0, song="hash")} and settled.files == {"x.parquet": {"bytes": 1}}
    assert not settled.dirty and not settled.has_codes(0)
    settled.lose_files()
    assert not settled.rows and settled.dirty
