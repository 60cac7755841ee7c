"""The paper's own figures in the package: identities that its tables must keep, and some of them read anew."""

from __future__ import annotations

import math

import pytest

from duotok.report.paper import paper


def number(text: str) -> float:
    return float(text)


def test_every_table_and_row_is_there_as_printed() -> None:
    found = paper()
    rows = {"table-1": 8, "table-2": 9, "table-3": 3, "table-4a": 4, "table-4b": 6, "table-5": 3, "table-6": 8, "table-9": 8,
            "table-10": 4, "table-11": 6, "figure3": 3}  # fmt: skip
    assert {name: len(table.rows) for name, table in found.items()} == rows
    assert all(len(row) == len(table.columns) for table in found.values() for row in table.rows)
    assert found["table-1"].rows[-1] == ("DuoTok", "25", "0.75", "0.35", "0.87", "0.48", "0.95")
    assert found["table-1"].rows[0] == ("DAC", "75", "6.00", "0.20", "0.79", "0.76", "0.73")
    assert ("DuoTok", "vocals", "3.66", "0.05") in found["table-4b"].rows
    assert ("MuCodec (LeVo)", "accompaniment", "", "", "1.85") in found["table-4a"].rows
    assert found["figure3"].rows == (("X-Codec (YuE)", "3.6"), ("MuCodec (LeVo)", "15.5"), ("DuoTok", "17.3"))
    assert ("without freezing", "accompaniment", "0.210", "0.029") in found["table-9"].rows


def test_table_5_is_bits_over_the_bits_of_a_plain_index() -> None:
    for row in paper()["table-5"]:
        assert math.log2(number(row["size"])) == number(row["bits"])
        for part in ("vocals", "accompaniment", "conditional"):
            cnbpt = number(row[f"{part}.bpt"]) / number(row["bits"])
            assert cnbpt == pytest.approx(number(row[f"{part}.cnbpt"]), abs=6e-4), (row["model"], part)


def test_tables_2_3_and_5_say_the_same() -> None:
    of_5 = {row["model"]: row for row in paper()["table-5"]}
    for row in paper()["table-2"]:
        if row["track"] != "average":
            for figure in ("cnbpt", "enbpt"):
                assert row[figure] == of_5[row["model"]][f"{row['track']}.{figure}"]
    for row in paper()["table-3"]:
        assert (row["cnbpt"], row["enbpt"]) == (
            of_5[row["model"]]["conditional.cnbpt"],
            of_5[row["model"]]["conditional.enbpt"],
        )


def test_table_6_adds_up_and_agrees_with_table_1() -> None:
    of_1 = {row["model"]: row for row in paper()["table-1"]}
    for row in paper()["table-6"]:
        assert number(row["cnbps"]) == pytest.approx(number(row["tokens_total"]) * number(row["cnbpt"]))
        assert (row["rate"], row["kbps_total"], row["cnbpt"]) == tuple(
            of_1[row["model"]][c] for c in ("rate", "kbps", "cnbpt")
        )
        streams = len(row["streams"].split(" + "))
        assert number(row["tokens_total"]) == streams * number(row["tokens_track"])
        assert number(row["kbps_total"]) == pytest.approx(streams * number(row["kbps_track"]), abs=0.011)


def test_tables_10_and_11_lead_to_table_2() -> None:
    of_2 = {(row["model"], row["track"]): row for row in paper()["table-2"]}
    full = next(row for row in paper()["table-10"] if row["model"] == "DuoTok")
    for track in ("vocals", "accompaniment"):
        assert round(number(full[f"{track}.cnbpt"]), 3) == number(of_2["DuoTok", track]["cnbpt"])
        for k in (1, 10, 50):
            assert round(number(full[f"{track}.acc{k}"]), 2) == number(of_2["DuoTok", track][f"acc{k}"])
    for row in paper()["table-10"]:
        mean = (number(row["vocals.cnbpt"]) + number(row["accompaniment.cnbpt"])) / 2
        assert mean == pytest.approx(number(row["average.cnbpt"]), abs=2e-4)
    for row in paper()["table-11"]:
        other = of_2[row["model"], row["track"]]
        enbpt = number(other["cnbpt"]) / number(row["normalized_entropy"])
        assert enbpt == pytest.approx(number(other["enbpt"]), abs=1.6e-3), row
