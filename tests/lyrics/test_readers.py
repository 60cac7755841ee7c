"""Lyrics files of every format: what they say, what is repaired, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duotok.lyrics.readers import FORMATS, read_lyrics
from duotok.lyrics.repair import LONGEST_LINE, Draft, repair
from duotok.lyrics.types import LyricLine, Lyrics, LyricsError, SungWord
from duotok.lyrics.words import guess_language, join_words, language_code, lines_by_pauses, split_words, words_of_pieces

SHARED = Path(__file__).parents[2] / "../shared/audio/metadata/lyrics"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/audio beside the project")


def put(folder: Path, name: str, content: str | bytes | object) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
    return path


def times(lyrics: Lyrics) -> list[tuple[str, float | None, float | None]]:
    return [(w.text, w.start, w.end) for w in lyrics.words]


def check_sound(lyrics: Lyrics, seconds: float | None = None) -> None:
    """What every consumer may rely on."""
    before = 0.0
    for line in lyrics.lines:
        assert line.words and line.text.strip()
        assert (line.start is None) == (line.end is None) == (lyrics.lines[0].start is None)
        if line.start is not None and line.end is not None:
            assert before - 2e-3 <= line.start < line.end
            assert seconds is None or line.end <= seconds + 1e-4
            before = line.end
        inner = 0.0
        for word in line.words:
            assert word.text and not any(c.isspace() for c in word.text)
            assert word.timed or (word.start is None and word.end is None)
            if word.start is not None and word.end is not None:
                assert inner - 2e-3 <= word.start < word.end
                inner = word.end
        assert len({w.timed for w in line.words}) == 1


# -- LRC -------------------------------------------------------------------------------------------------------------


def test_lrc_lines_end_where_the_next_begins_and_an_empty_one_ends_the_last(tmp_path: Path):
    path = put(
        tmp_path, "a.lrc", "[ti:Song]\n[la:en]\n[00:01.50]First line\n[00:04.5]Second\n[00:06:25]\n[01:00]Last\n"
    )
    lyrics = read_lyrics(path, seconds=70.0)
    assert [(x.text, x.start, x.end) for x in lyrics.lines] == [
        ("First line", 1.5, 4.5), ("Second", 4.5, 6.25), ("Last", 60.0, 70.0),
    ]  # fmt: skip
    assert (lyrics.language, lyrics.source, lyrics.notes) == ("en", "lrc", ())
    assert [w.text for w in lyrics.words] == ["First", "line", "Second", "Last"] and lyrics.timed


def test_lrc_repeated_lines_offset_and_a_far_successor(tmp_path: Path):
    path = put(tmp_path, "a.lrc", "[offset:+500]\n[00:02.00][01:02.00] Chorus\n[00:10.00]Verse\n")
    lyrics = read_lyrics(path)
    assert [(x.text, x.start, x.end) for x in lyrics.lines] == [
        ("Chorus", 1.5, 9.5), ("Verse", 9.5, 9.5 + LONGEST_LINE), ("Chorus", 61.5, 61.5 + LONGEST_LINE),
    ]  # fmt: skip


@pytest.mark.parametrize("row", ["[00:01.00] <00:01.00> When <00:01.50> the <00:02.00> truth <00:02.75>",
                                 "[00:01.00]When [00:01.50]the [00:02.00]truth[00:02.75]"])  # fmt: skip
def test_lrc_word_times_of_both_kinds(tmp_path: Path, row: str):
    lyrics = read_lyrics(put(tmp_path, "a.lrc", row + "\n[00:05.00]plain line\n"))
    assert times(lyrics)[:3] == [("When", 1.0, 1.5), ("the", 1.5, 2.0), ("truth", 2.0, 2.75)]
    assert (lyrics.lines[0].text, lyrics.lines[0].end) == ("When the truth", 2.75)


@pytest.mark.parametrize("first", [1, 61])
def test_lrc_words_of_a_repeated_line_are_sung_each_time(tmp_path: Path, first: int):
    """The word times are those of one of the line's times, whichever; they were taken for those of all."""
    m = first // 60
    row = f"[00:01.00][01:01.00]<{m:02}:01.00>When <{m:02}:01.50>the <{m:02}:02.00>\n[00:30.00]Verse"
    lyrics = read_lyrics(put(tmp_path, "a.lrc", row))
    assert times(lyrics)[:2] == [("When", 1.0, 1.5), ("the", 1.5, 2.0)]
    assert times(lyrics)[-2:] == [("When", 61.0, 61.5), ("the", 61.5, 62.0)] and not lyrics.notes


@pytest.mark.parametrize("tags", ["[00:01.00] [00:01.20]", "[00:01.20][00:01.20]"])
def test_lrc_the_time_of_the_first_word_is_no_repetition(tmp_path: Path, tags: str):
    """No line is sung again before it ends."""
    lyrics = read_lyrics(put(tmp_path, "a.lrc", f"{tags}When [00:01.50]the[00:02.00]\n[00:30.00]Verse"))
    assert times(lyrics)[:-1] == [("When", 1.2, 1.5), ("the", 1.5, 2.0)]


def test_lrc_lines_that_are_lost_are_counted(tmp_path: Path):
    lyrics = read_lyrics(put(tmp_path, "a.lrc", "[ti:T]\n[00:01.00]One\nsecond half\n\n[1:02:03.45]late\n-\n"))
    assert lyrics.text == "One" and lyrics.notes == ("2 x line without a time, left out",)


def test_lrc_syllables_make_words_and_credits_are_left_out(tmp_path: Path):
    path = put(tmp_path, "a", "[00:00.00]作词 : 某人\n[00:10.00]<00:10.00>我<00:10.40>爱<00:10.80>你<00:11.20>\n")
    lyrics = read_lyrics(path)
    assert times(lyrics) == [("我", 10.0, 10.4), ("爱", 10.4, 10.8), ("你", 10.8, 11.2)]
    assert (lyrics.language, lyrics.text, lyrics.notes) == ("zh", "我爱你", ("1 x credit line, left out",))


# -- UltraStar -------------------------------------------------------------------------------------------------------

SONG = "#TITLE:T\n#LANGUAGE:German\n#BPM:300\n#GAP:1000\n"


def test_ultrastar_notes_words_and_lines(tmp_path: Path):
    notes = (
        ": 0 4 60 Hel\n* 4 6 62 lo\nF 10 4 0  you~\nR 14 2 0 ~,\n- 20 24\nG 30 4 5 Bye \n: 40 4 5 now\nE\n: 99 9 9 no"
    )
    lyrics = read_lyrics(put(tmp_path, "song.txt", SONG + notes))
    beat = 15 / 300
    assert times(lyrics) == [
        ("Hello", 1.0, 1.0 + 10 * beat), ("you,", 1.0 + 10 * beat, 1.0 + 16 * beat),
        ("Bye", 1.0 + 30 * beat, 1.0 + 34 * beat), ("now", 1.0 + 40 * beat, 1.0 + 44 * beat),
    ]  # fmt: skip
    assert [line.text for line in lyrics.lines] == ["Hello you,", "Bye now"]
    assert (lyrics.language, lyrics.source) == ("de", "ultrastar")


def test_ultrastar_relative_tempo_changes_and_duets(tmp_path: Path):
    relative = "#RELATIVE:YES\n" + SONG + ": 0 4 0 One\n- 8 10\n: 2 4 0 Two\nE\n"
    assert [w.start for w in read_lyrics(put(tmp_path, "a.txt", relative)).words] == [1.0, 1.6]
    tempo = SONG + ": 0 4 0 One\nB 10 150\n: 20 10 0  Two\nE\n"
    assert times(read_lyrics(put(tmp_path, "b.txt", tempo)))[1] == ("Two", 2.5, 3.5)
    duet = SONG + "P1\n: 0 4 0 Me\n- 8\n: 40 4 0 Us\nP2\n: 20 4 0 You\nE\n"
    assert [line.text for line in read_lyrics(put(tmp_path, "c.txt", duet)).lines] == ["Me", "You", "Us"]


@pytest.mark.parametrize(("encoding", "tag"), [("utf-8", ""), ("utf-8-sig", ""), ("cp1252", ""), ("utf-16", ""),
                                               ("cp1250", "#ENCODING:CP1250\n"), ("cp1252", "#ENCODING:CP1252\n"),
                                               ("utf-8", "#ENCODING:UTF8\n")])  # fmt: skip
def test_encodings(tmp_path: Path, encoding: str, tag: str):
    text = tag + SONG + ": 0 4 0 Mädchen\n: 5 4 0  schön\nE\n"
    assert read_lyrics(put(tmp_path, "a.txt", text.encode(encoding))).text == "Mädchen schön"


def test_chinese_in_its_own_encoding_is_not_taken_for_french_and_the_other_way_round(tmp_path: Path):
    chinese = read_lyrics(put(tmp_path, "a.lrc", "[00:01.00]我爱北京天安门\n[00:03.00]你好世界".encode("gb18030")))
    assert (chinese.lines[0].text, chinese.language) == ("我爱北京天安门", "zh")
    french = read_lyrics(put(tmp_path, "b.txt", "L'été dernier à la forêt\nça va très bien".encode("cp1252")))
    assert (french.lines[0].text, french.language) == ("L'été dernier à la forêt", None)


@pytest.mark.parametrize(("content", "problem"), [
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "no text in UTF-8"),
    (bytes(range(256)) * 20, "no text in UTF-8"),
    (b"\xff\xfeab\x00", "byte order mark says utf-16"),
    (b"", "empty"), (b"  \n \n", "empty"),
    (b"1\n00:00:01,000 --> 00:00:02,000\nHello\n", "subtitles"),
    (b"[Chorus]\n[Verse 2]\n", "no lyrics in it"),
    (b"#BPM:abc\n: 0 1 0 a\n", "#BPM is 'abc', not a number"),
    (b"#BPM:0\n: 0 1 0 a\n", "#BPM is '0', not a number"),
    (b"#BPM:100\n#GAP:x\n: 0 1 0 a\n", "#GAP is 'x'"),
])  # fmt: skip
def test_what_is_no_lyrics_is_told_in_one_line(tmp_path: Path, content: bytes, problem: str):
    path = put(tmp_path, "song.txt", content)
    with pytest.raises(LyricsError, match=problem) as caught:
        read_lyrics(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_missing_files_and_wrong_formats_are_named(tmp_path: Path):
    with pytest.raises(LyricsError, match=r"none.lrc: cannot be read \(No such file or directory\)"):
        read_lyrics(tmp_path / "none.lrc")
    with pytest.raises(LyricsError, match=r"a.json: not valid JSON"):
        read_lyrics(put(tmp_path, "a.json", "{oops"))
    with pytest.raises(LyricsError, match="JSON of no known kind"):
        read_lyrics(put(tmp_path, "b.json", {"a": 1}))
    with pytest.raises(LyricsError, match="format 'mp3' is not known"):
        read_lyrics(put(tmp_path, "c.txt", "words"), format="mp3")  # type: ignore[arg-type]
    with pytest.raises(LyricsError, match="not JSON of the kind 'whisperx'"):
        read_lyrics(put(tmp_path, "d.json", [1, 2]), format="whisperx")
    with pytest.raises(LyricsError, match="not JSON as WhisperX writes it"):
        read_lyrics(put(tmp_path, "e.json", {"segments": [3]}))
    with pytest.raises(LyricsError, match="not JSON as FunASR writes it"):
        read_lyrics(put(tmp_path, "f.json", [{"key": "a", "text": "你", "timestamp": [5]}]))


# -- JSON of recognizers ---------------------------------------------------------------------------------------------


def test_whisperx_with_words_that_have_no_times(tmp_path: Path):
    segments = [
        {"start": 1.0, "end": 4.0, "text": " In 2014 we sang.", "words": [
            {"word": "In", "start": 1.0, "end": 1.2, "score": 0.9}, {"word": "2014"},
            {"word": "we", "start": 2.2, "end": 2.5, "score": 0.5}, {"word": "sang.", "start": 2.5, "end": 4.0}]},
        {"start": 5.0, "end": float("nan"), "text": "No words here"},
    ]  # fmt: skip
    lyrics = read_lyrics(put(tmp_path, "a.json", {"segments": segments, "word_segments": [], "language": "en"}))
    assert times(lyrics)[:4] == [("In", 1.0, 1.2), ("2014", 1.2, 2.2), ("we", 2.2, 2.5), ("sang.", 2.5, 4.0)]
    assert (lyrics.lines[1].start, lyrics.lines[1].words[0].start) == (5.0, None)
    assert lyrics.notes == ("1 x word without times, put between its neighbours (first: '2014')",)
    with pytest.raises(LyricsError, match="word without times"):
        read_lyrics(tmp_path / "a.json", strict=True)


def test_whisperx_word_segments_alone(tmp_path: Path):
    words = [{"word": "a", "start": 0.0, "end": 0.5}, {"word": "b", "start": 3.0, "end": 3.5}]
    assert [x.text for x in read_lyrics(put(tmp_path, "a.json", {"word_segments": words})).lines] == ["a", "b"]


def test_funasr_sentences(tmp_path: Path):
    result = [{"key": "a", "text": "你好，世界。", "timestamp": [[100, 300], [300, 500], [700, 900], [900, 1200]],
               "sentence_info": [{"text": "你好，", "start": 100, "end": 500, "timestamp": [[100, 300], [300, 500]]},
                                 {"text": "世界。", "start": 700, "end": 1200, "timestamp": [[700, 900], [900, 1200]]}]}]  # fmt: skip
    lyrics = read_lyrics(put(tmp_path, "a.json", result))
    assert times(lyrics) == [("你", 0.1, 0.3), ("好，", 0.3, 0.5), ("世", 0.7, 0.9), ("界。", 0.9, 1.2)]
    assert ([x.text for x in lyrics.lines], lyrics.language, lyrics.source) == (["你好，", "世界。"], "zh", "funasr")


def test_funasr_text_and_times_alone(tmp_path: Path):
    stamps = [[100, 300], [300, 500], [2000, 2500], [2500, 2700]]
    spaced = read_lyrics(put(tmp_path, "a.json", {"key": "a", "text": "你 好 hello 啊", "timestamp": stamps}))
    assert [x.text for x in spaced.lines] == ["你好", "hello 啊"] and spaced.lines[1].start == 2.0
    english = read_lyrics(put(tmp_path, "b.json", {"text": "Hello there. Good morning", "timestamp": stamps}))
    assert [(x.text, x.start) for x in english.lines] == [("Hello there.", 0.1), ("Good morning", 2.0)]
    tagged = read_lyrics(
        put(tmp_path, "c.json", [{"key": "a", "text": "<|en|><|NEUTRAL|><|Speech|><|withitn|>hi you"}])
    )
    assert (tagged.text, tagged.language, tagged.timed) == ("hi you", "en", False)
    odd = read_lyrics(put(tmp_path, "d.json", {"key": "a", "text": "你好，世界", "timestamp": stamps[:3]}))
    assert not odd.timed and "differ in number" in odd.notes[0] and [x.text for x in odd.lines] == ["你好，", "世界"]


# -- other files -----------------------------------------------------------------------------------------------------


def test_generated_songs_and_our_own_json(tmp_path: Path):
    words = [{"text": "we", "start": 4.3, "end": 5.0, "syllables": []}, {"text": "sing", "start": 6.0, "end": 6.5}]
    song = put(tmp_path, "song.json", {"format": "duotok-song-1", "language": "en", "words": words})
    lyrics = read_lyrics(song)
    assert (times(lyrics), lyrics.language, lyrics.source) == ([("we", 4.3, 5.0), ("sing", 6.0, 6.5)], "en", "song")
    assert len(lyrics.lines) == 2  # a pause of a second
    again = read_lyrics(put(tmp_path, "own.json", lyrics.as_json()))
    assert again == lyrics and again.notes == ()
    with pytest.raises(LyricsError, match=r"bad.json: not lyrics as duotok writes them"):
        read_lyrics(put(tmp_path, "bad.json", {"lines": [{"text": "a"}]}))


def test_jamendo_tables(tmp_path: Path):
    (tmp_path / "annotations/words").mkdir(parents=True)
    (tmp_path / "annotations/lines").mkdir()
    (tmp_path / "lyrics").mkdir()
    put(tmp_path, "JamendoLyrics.csv", "URL,Filepath,Language\nx,Song_-_A.mp3,French\n")
    path = put(
        tmp_path / "annotations/words", "Song_-_A.csv", "word_start,word_end,line_end\n1.0,2.0,nan\n2,3,4\n5,6,7\n"
    )
    with pytest.raises(LyricsError, match=r"times without words; .*lyrics/Song_-_A.words.txt is missing"):
        read_lyrics(path)
    put(tmp_path / "lyrics", "Song_-_A.words.txt", "la\nmer\n")
    with pytest.raises(LyricsError, match="3 times for the 2 words"):
        read_lyrics(path)
    put(tmp_path / "lyrics", "Song_-_A.words.txt", "la\nmer\nbleue\n")
    lyrics = read_lyrics(path)
    assert ([x.text for x in lyrics.lines], lyrics.language) == (["la mer", "bleue"], "fr")
    rows = "start_time,end_time,lyrics_line\n1.0,3.0,la mer\n5,6,bleue\n"
    lines = read_lyrics(put(tmp_path / "annotations/lines", "Song_-_A.csv", rows))
    assert [(x.text, x.start, x.end) for x in lines.lines] == [("la mer", 1.0, 3.0), ("bleue", 5.0, 6.0)]
    assert not any(w.timed for w in lines.words)
    with pytest.raises(LyricsError, match="'soon' is no time"):
        read_lyrics(put(tmp_path, "a.csv", "start_time,end_time,lyrics_line\nsoon,2,a\n"))
    with pytest.raises(LyricsError, match="line 2 has not the columns"):
        read_lyrics(put(tmp_path, "b.csv", "start_time,end_time,lyrics_line\n1\n"))


def test_plain_text(tmp_path: Path):
    lyrics = read_lyrics(put(tmp_path, "a.txt", "[Verse 1]\nHello , world\n\n(Chorus)\n我爱你。\n- - -\n"))
    assert [x.text for x in lyrics.lines] == ["Hello , world", "我爱你。"]
    assert [w.text for w in lyrics.words] == ["Hello,", "world", "我", "爱", "你。"]
    assert not lyrics.timed and "2 x mark of a section" in lyrics.notes[0] and "line without words" in lyrics.notes[1]


def test_a_recording_that_is_part_of_the_song(tmp_path: Path):
    rows = "[00:01.00]<00:01.00>before<00:02.00>\n[00:10.00]<00:10.00>in <00:11.00>side<00:11.50>\n"
    rows += "[00:19.00]<00:19.00>cut <00:19.50>off<00:22.00>\n[00:40.00]after"
    lyrics = read_lyrics(put(tmp_path, "a.lrc", rows), start=9.0, seconds=11.0)
    assert times(lyrics) == [("in", 1.0, 2.0), ("side", 2.0, 2.5), ("cut", 10.0, 10.5), ("off", 10.5, 11.0)]
    with pytest.raises(LyricsError, match="no lyrics inside the recording"):
        read_lyrics(tmp_path / "a.lrc", start=100.0, seconds=5.0)


# -- mending ---------------------------------------------------------------------------------------------------------


def repaired(*words: tuple[str, float | None, float | None], **options: float) -> Lyrics:
    line = LyricLine(" ".join(w[0] for w in words), None, None, tuple(SungWord(*w) for w in words))
    lyrics = repair(Draft([line]), "test", **options)  # type: ignore[arg-type]
    check_sound(lyrics)
    return lyrics


@pytest.mark.parametrize(("words", "result", "note"), [
    ([("a", 1, 3), ("b", 2, 4)], [("a", 1, 2), ("b", 2, 4)], "overlapping the next, cut"),
    ([("a", 1, 1), ("b", 2, 4)], [("a", 1, 1.1), ("b", 2, 4)], "of no length, lengthened"),
    ([("a", 1, 1), ("b", 1.05, 4)], [("a", 1, 1.05), ("b", 1.05, 4)], "of no length, lengthened"),
    ([("a", 1, 1), ("b", 1, 4)], [("a", 1, 2.5), ("b", 2.5, 4)], "starts with the next"),
    ([("a", 3, 1), ("b", 4, 5)], [("a", 3, 4), ("b", 4, 5)], "ends before it starts"),
    ([("a", 1, 2), ("b", 90, 91), ("c", 3, 4)], [("a", 1, 2), ("b", 2, 3), ("c", 3, 4)], "out of order"),
    ([("a", 1, None), ("b", 2, None)], [("a", 1, 2), ("b", 2, 3)], ""),
    ([("a", float("nan"), 2), ("b", 2, 3)], [("a", 2, 2.5), ("b", 2.5, 3)], "without times"),
])  # fmt: skip
def test_faults_are_mended_and_said(words: list, result: list, note: str):
    lyrics = repaired(*words)
    assert times(lyrics) == result
    assert any(note in said for said in lyrics.notes) if note else not lyrics.notes
    if note:
        with pytest.raises(LyricsError, match=note):
            repaired(*words, strict=True)


def test_words_beyond_the_end_are_left_out():
    lyrics = repaired(("a", 1.0, 2.0), ("b", 4.9, 6.0), ("c", 7.0, 8.0), seconds=5.0)
    assert times(lyrics) == [("a", 1.0, 2.0), ("b", 4.9, 5.0)] and lyrics.text == "a b"
    assert len(lyrics.notes) == 2


def test_two_singers_at_once_become_one_line_in_the_order_of_their_words():
    one = LyricLine("a b c", None, None, (SungWord("a", 1, 2), SungWord("b", 3, 4), SungWord("c", 5, 6)))
    two = LyricLine("x y", None, None, (SungWord("x", 2, 3), SungWord("y", 4, 5)))
    lyrics = repair(Draft([one, two]), "test")
    check_sound(lyrics)
    assert [w.text for w in lyrics.words] == ["a", "x", "b", "y", "c"] and "same time, joined" in lyrics.notes[0]


seconds_ = st.floats(-5, 200, width=32) | st.integers(0, 6).map(float) | st.none() | st.just(float("nan"))
texts = st.text("ab我 ,-", max_size=4)


@given(st.lists(st.builds(lambda t, a, b, w: LyricLine(t, a, b, tuple(SungWord(*x) for x in w)), texts, seconds_, seconds_,
                          st.lists(st.tuples(texts, seconds_, seconds_), max_size=5)), max_size=6),
       st.floats(1, 150) | st.none(), st.floats(0, 50))  # fmt: skip
def test_whatever_the_times_were_the_result_is_sound(lines: list[LyricLine], seconds: float | None, start: float):
    try:
        lyrics = repair(Draft(lines), "test", seconds, start)
    except LyricsError as error:
        assert "no lyrics" in str(error)
        return
    check_sound(lyrics, seconds)
    again = repair(Draft(list(lyrics.lines)), "test", seconds)
    check_sound(again, seconds)
    if all(w.start is None or w.end is None or w.end - w.start >= 0.02 for w in lyrics.words):
        assert again.lines == lyrics.lines  # nothing is left to repair


lrc_rows = st.lists(
    st.sampled_from(["[00:01.00]", "[99:99:999]", "<00:02.5>", "[offset:", "+5]", "我", " la ", "\n", "[la:xx]", "]"])
)
notes = st.lists(st.sampled_from([": 0 4 1 a\n", "* -9 0 0  b\n", "- 3 4\n", "-\n", "B 1 2.2.2\n", "B 2 50\n", "P2\n", "E\n", ": 5 x\n",
                                  "#GAP:1e3\n", "#RELATIVE:yes\n", "F 9 9 9 ~\n"])).map(lambda rows: ["#BPM:120\n", *rows])  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 9)
    | st.floats()
    | st.sampled_from(["a", "我", "", "<|en|>x"])
    | st.just(10**400)
)
keys = st.sampled_from(["segments", "words", "word", "text", "start", "end", "timestamp", "sentence_info", "lines", "language", "line",
                        "key", "format", "word_segments", "source", "header"])  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lrc_rows.map("".join) | notes.map("".join) | st.text() | values.map(json.dumps) | st.binary())
def test_whatever_the_file_holds_it_is_read_or_refused(tmp_path: Path, content: str | bytes):
    path = put(tmp_path, "any", content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        check_sound(read_lyrics(path, seconds=60.0), 60.0)
    except LyricsError as error:
        assert "\n" not in str(error)


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Music, to me, is", "我爱北京，天安门。", "l'été dernier !", "我 love 你"])
def test_words_and_text_back(text: str):
    assert join_words(split_words(text)).replace(" ", "") == text.replace(" ", "")
    assert split_words(join_words(split_words(text))) == split_words(text)


def test_pieces_to_words():
    pieces = [
        ("Twen", 0.0, 1.0),
        ("ty", 1.0, 2.0),
        (" one two", 2.0, 5.0),
        (",", 5.0, 6.0),
        ("你", 6.0, 7.0),
        ("好", 7.0, 8.0),
    ]
    assert [(w.text, w.start, w.end) for w in words_of_pieces(pieces)] == [
        ("Twenty", 0.0, 2.0), ("one", 2.0, 3.5), ("two,", 3.5, 6.0), ("你", 6.0, 7.0), ("好", 7.0, 8.0),
    ]  # fmt: skip


def test_long_lines_are_cut_at_their_longest_pauses():
    words = [SungWord(str(i), at := i + (0.3 if i >= 7 else 0.0), at + 0.9) for i in range(20)]
    lines = lines_by_pauses(words, pause=0.5, longest=13.0)
    assert [len(line.words) for line in lines] == [7, 13]


@pytest.mark.parametrize(("text", "language"), [("我爱你", "zh"), ("ありがとう世界", "ja"), ("사랑해", "ko"), ("hello 我", ""),
                                                ("hello", ""), ("", "")])  # fmt: skip
def test_language_by_script(text: str, language: str):
    assert guess_language(text) == language


@pytest.mark.parametrize(
    ("tag", "code"), [("English", "en"), ("de-DE", "de"), ("zh_CN", "zh"), ("cmn", "zh"), ("??", ""), ("", "")]
)
def test_language_by_tag(tag: str, code: str):
    assert language_code(tag) == code


# -- the true files --------------------------------------------------------------------------------------------------


@needs_shared
def test_every_true_file_is_read():
    files = [p for p in SHARED.rglob("*.*") if p.suffix in (".txt", ".json", ".csv") and p.name != "JamendoLyrics.csv"]
    files = [p for p in files if "license" not in p.name.lower()]
    assert len(files) > 400
    for path in files:
        lyrics = read_lyrics(path)
        check_sound(lyrics)
        if "jamendolyrics/annotations" in path.as_posix():
            assert lyrics.timed and lyrics.language in ("en", "de", "fr", "es")
        if "ichbinsoftware" in path.parts or path.parent.name == "lyrics":
            assert not lyrics.timed


@needs_shared
def test_ultrastar_words_are_those_that_others_found():
    compared = 0
    for path in sorted(SHARED.glob("ultrastar/*/song.txt")):
        theirs = json.loads(path.with_name("words.json").read_text(encoding="utf-8"))["words"]
        ours = read_lyrics(path)
        assert len(ours.words) == len(theirs) and len(ours.lines) == theirs[-1]["line"] + 1
        for word, other in zip(ours.words, theirs, strict=True):
            assert word.text == other["word"].replace(" ", "").replace("~", "")
            assert word.start == pytest.approx(other["start"], abs=2e-3)
            compared += 1
    assert compared > 10_000


def test_the_formats_are_documented():
    page = (Path(__file__).parents[2] / "docs/lyrics.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in FORMATS)
