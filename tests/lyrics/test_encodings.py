"""Lyrics in the encodings of the world: read right, with a word on the guess, or refused; never as other characters."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from duotok.lyrics.encodings import decode
from duotok.lyrics.readers import read_lyrics
from duotok.lyrics.types import LyricsError

SONGS = {
    "Japanese": "夜空に光る星を見上げて\n君の名前をそっと呼んだ\n風が運ぶあの日の歌\nもう一度だけ会いたいよ\nさよならは言わないで\n",
    "Korean": "밤하늘에 빛나는 별을 보며\n너의 이름을 조용히 불러 본다\n바람이 전해 주는 그날의 노래\n다시 한번만 보고 싶어\n",
    "Traditional": "夜空中閃亮的星星\n輕輕呼喚你的名字\n風帶來那天的歌聲\n我只想再見你一面\n不要說再見\n",
    "Simplified": "夜空中最亮的星\n轻轻呼唤你的名字\n风带来那天的歌声\n我只想再见你一面\n",
    "Czech": "Včera večer jsem viděl hvězdy\nříkal jsem tvé jméno tiše\nvítr přinesl píseň\nještě jednou tě chci spatřit\n",
    "Polish": "Wczoraj wieczór widziałem gwiazdy\nszeptałem twoje imię cicho\nwiatr przyniósł tę pieśń\njeszcze raz chcę cię ujrzeć\n",
    "Hungarian": "Tegnap este láttam a csillagokat\nhalkan mondtam a neved őszintén\na szél elhozta a dalt, űr\n",
    "Russian": "Вчера я видел звёзды в небе\nи тихо имя звал твоё\nнам ветер песню ту принёс\nещё хоть раз тебя увидеть\n",
    "Greek": "Χθες το βράδυ είδα τα αστέρια\nψιθύρισα το όνομά σου\nο άνεμος έφερε το τραγούδι\n",
    "Turkish": "Dün gece yıldızları gördüm\nsessizce adını söyledim\nrüzgâr şarkıyı getirdi ağladım\n",
    "French": "Hier soir j'ai vu les étoiles\nj'ai murmuré ton prénom très bas\nle vent a porté la chanson\nje veux te voir là-bas\n",
    "German": "Gestern Abend sah ich Sterne\nflüsterte deinen Namen schön\nder Wind trägt Lieder aus der Ferne, größer\n",
    "Portuguese": "Ontem à noite eu vi as estrelas\nsussurrei o teu nome em vão\no vento trouxe a canção\nsó mais uma vez, amanhã\n",
    "Hebrew": "אמש ראיתי כוכבים בשמיים\nלחשתי את שמך בשקט\nהרוח נשאה את השיר\n",
}
ENCODINGS = {
    "Japanese": ("shift_jis", "cp932", "euc_jp", "iso2022_jp"), "Korean": ("euc_kr", "cp949"), "Traditional": ("big5",),
    "Simplified": ("gb2312", "gb18030"), "Czech": ("cp1250", "iso8859_2"), "Polish": ("cp1250", "iso8859_2"),
    "Hungarian": ("cp1250",), "Russian": ("cp1251", "koi8_r"), "Greek": ("cp1253",), "Turkish": ("cp1254",),
    "French": ("cp1252",), "German": ("cp1252",), "Portuguese": ("cp1252",),
}  # fmt: skip
CASES = [(language, encoding) for language, names in ENCODINGS.items() for encoding in names]


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_read_right_and_said(language: str, encoding: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "song.txt"
    path.write_bytes(SONGS[language].encode(encoding))
    with caplog.at_level(logging.WARNING):
        found = read_lyrics(path)
    assert found.text == SONGS[language].strip()
    assert "read as " in found.notes[0] and "% sure" in found.notes[0] and found.notes[0] in caplog.text


@pytest.mark.parametrize(("language", "encoding"), [*CASES, ("Hebrew", "cp1255")])
def test_a_short_text_is_right_or_refused(language: str, encoding: str) -> None:
    for line in SONGS[language].strip().split("\n"):
        if line.isascii():
            continue
        data = line.encode(encoding)
        try:
            assert decode(data, "line").text == line
        except LyricsError as error:
            assert "cannot be told" in str(error) and "--encoding" in str(error)
        assert decode(data, "line", encoding) == (line, encoding, "")


def test_without_doubt_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n, encoding in enumerate(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")):
        text = SONGS["German"]
        (tmp_path / f"{n}.txt").write_bytes(text.encode(encoding))
        assert read_lyrics(tmp_path / f"{n}.txt").text == text.strip()
    assert not caplog.records


def test_a_given_encoding_is_the_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(SONGS["Hebrew"].encode("cp1255"))
    assert read_lyrics(path, encoding="cp1255").text == SONGS["Hebrew"].strip()
    with pytest.raises(LyricsError, match=r"a.txt: is no utf-8; save it as UTF-8"):
        read_lyrics(path, encoding="utf-8")
    with pytest.raises(LyricsError, match="no encoding 'klingon'; try utf-8"):
        read_lyrics(path, encoding="klingon")
