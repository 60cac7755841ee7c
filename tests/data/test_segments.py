"""Segments: within bounds, none overlapping, no voiced frame and no word lost, cuts where they belong, types as promised."""

from __future__ import annotations

import dataclasses
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duotok.audio.loudness import integrated_loudness
from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.data import catalog
from duotok.data.activity import ActivityConfig, voice_activity
from duotok.data.catalog import Catalog
from duotok.data.cutting import CANDIDATE_FRAMES, Material, best_cuts, candidates
from duotok.data.engines import attempt
from duotok.data.jobs import LocalEngine, read_ledger
from duotok.data.scan import scan_files
from duotok.data.segmenting import LEDGER, TABLE, lyrics_warning, segment_all, summary
from duotok.data.segments import LYRICS_LOST, SegmentConfig, cut_recording, segment_recording, stem_sources, tracks
from duotok.data.sentences import sentences_of
from duotok.errors import ConfigError
from duotok.lyrics.types import LyricLine, Lyrics, SungWord
from duotok.records import CorpusError, Kind, Recording, Segment, read_table

CONFIG = SegmentConfig()
QUIET, SOFT, LOUD = -100.0, -40.0, -20.0


def recording(kind: Kind = "song", name: str = "x", **values: Any) -> Recording:
    audio = values.pop("audio", {"mix": f"{name}.wav"})
    fields: dict[str, Any] = {"corpus": "c", "split": "train", "identity": name, "licence": "CC0", **values}
    return Recording(id=f"c/{name}", kind=kind, audio=audio, **fields)


def scan_of(stems: dict[str, np.ndarray], loudness: float | None = -20.0) -> tuple[dict[str, Any], np.ndarray]:
    """A scan and levels `[stems, frames]` float16, as the scan step writes them."""
    names = sorted(stems)
    frames = len(stems[names[0]])
    found = {"seconds": frames / 25, "samples": frames * FRAME_SAMPLES, "loudness": loudness, "stems": names}
    return found, np.stack([stems[name] for name in names]).astype(np.float16)


def levels(*pieces: tuple[float, float]) -> np.ndarray:
    """Levels from (dB, seconds)."""
    return np.concatenate([np.full(round(seconds * 25), db) for db, seconds in pieces])


def lines(*times: tuple[float, float], words: int = 4) -> Lyrics:
    """Lines with so many words each, evenly spread."""
    made = []
    for n, (start, end) in enumerate(times):
        at = np.linspace(start, end, words + 1)
        parts = tuple(SungWord(f"w{n}-{i}", float(at[i]), float(at[i + 1])) for i in range(words))
        made.append(LyricLine(" ".join(word.text for word in parts), start, end, parts))
    return Lyrics(tuple(made), "en")


def check(item: Recording, segments: list[Segment] | tuple[Segment, ...], frames: int) -> None:
    """What holds for the segments of any recording."""
    for segment in segments:
        assert 0 <= segment.start_frame < segment.start_frame + segment.frames <= frames
        assert 125 <= segment.frames <= 750
        assert segment.types and segment.stems
        assert (segment.recording, segment.split, segment.identity) == (item.id, item.split, item.identity)
        assert all(0 <= start <= end <= segment.seconds for _, start, end in segment.words)
    for a, b in itertools.pairwise(segments):
        assert a.start_frame + a.frames <= b.start_frame
    assert len({segment.key for segment in segments}) == len(segments)


def covered(segments: list[Segment] | tuple[Segment, ...], frames: int) -> np.ndarray:
    mask = np.zeros(frames, bool)
    for segment in segments:
        mask[segment.start_frame : segment.start_frame + segment.frames] = True
    return mask


@st.composite
def songs(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], Lyrics | None]:
    """Stems whose levels come and go at random, 5 s to 4 minutes, with lines where it pleases."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = draw(st.integers(125, 6000))

    def track() -> np.ndarray:
        out: list[np.ndarray] = []
        while sum(map(len, out)) < frames:
            out.append(rng.choice([QUIET, -70.0, SOFT, LOUD]) + rng.normal(0, 3, rng.integers(5, 600)))
        return np.concatenate(out)[:frames]

    stems = {"vocals": track(), "accompaniment": track()}
    if draw(st.booleans()):
        return stems, None
    starts = np.sort(rng.uniform(0, frames / 25, draw(st.integers(0, 60))))
    times = [(float(s), float(s + rng.exponential(4))) for s in starts]
    return stems, lines(*times, words=draw(st.integers(1, 6)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(songs())
def test_any_song(song: tuple[dict[str, np.ndarray], Lyrics | None]) -> None:
    stems, lyrics = song
    frames = len(stems["vocals"])
    item, (scan, rows) = recording(), scan_of(stems)
    cut = cut_recording(item, scan, rows, lyrics)
    check(item, cut.segments, frames)
    inside = covered(cut.segments, frames)
    if lyrics is None:
        voiced = voice_activity(rows[1], CONFIG.activity, rows[0])
        assert inside[voiced].all(), "a voiced frame is in no segment"
    elif not any(note.startswith("lyrics left out") for note in cut.notes):
        heard = (
            rows.max(axis=0) > CONFIG.silence_db
        )  # five seconds of digital silence are no segment, whoever sings there
        for line in sentences_of(lyrics, frames)[0]:
            part = slice(line.first, line.stop)
            assert (inside | ~heard)[part].all(), "a part of a line that sounds is in no segment"
    for segment in cut.segments:
        if segment.activity == "instrumental":
            assert not segment.words and not segment.text and "vocals" not in segment.types
    assert cut == cut_recording(item, scan, rows, lyrics)


@settings(max_examples=30, deadline=None)
@given(songs())
def test_no_word_is_lost_or_in_two_segments(song: tuple[dict[str, np.ndarray], Lyrics | None]) -> None:
    stems, lyrics = song
    if lyrics is None:
        return
    scan, rows = scan_of({"mix": stems["accompaniment"]})
    cut = cut_recording(recording(), scan, rows, lyrics)
    there = [word.text for line in sentences_of(lyrics, rows.shape[1])[0] for word in line.words]
    held = [text for segment in cut.segments for text, _, _ in segment.words]
    assert len(set(held)) == len(held)
    told = sum(int(note.split()[0]) for note in cut.notes if note.endswith("cut by a boundary or in silence"))
    assert len(held) + told == len(there) and set(held) <= set(there)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 9), st.floats(0, 4)), min_size=3, max_size=40))
def test_lines_that_follow_each_other_are_all_whole(shape: list[tuple[float, float]]) -> None:
    times, at = [], 1.0
    for length, pause in shape:
        times.append((at, at + length))
        at += length + pause
    lyrics = lines(*times)
    frames = round((at + 5) * 25)
    cut = cut_recording(recording(), *scan_of({"mix": np.full(frames, LOUD)}), lyrics)
    check(recording(), cut.segments, frames)
    assert [text for segment in cut.segments for text, _, _ in segment.words] == [word.text for word in lyrics.words]
    assert "\n".join(s.text for s in cut.segments if s.text) == lyrics.text and cut.notes == ()


def test_words_keep_their_place() -> None:
    lyrics = lines((6, 9), (9.4, 14), (14, 19.5), (31, 38), (38.2, 44), (44.1, 49))
    cut = cut_recording(recording(), *scan_of({"mix": np.full(1500, LOUD)}), lyrics)
    known = {word.text: (word.start, word.end) for word in lyrics.words}
    for segment in cut.segments:
        for text, start, end in segment.words:
            assert start + segment.start_frame / 25 == pytest.approx(known[text][0], abs=0.021)
            assert end + segment.start_frame / 25 == pytest.approx(known[text][1], abs=0.021)


def test_a_sentence_of_more_than_30_s_is_cut_between_words_where_it_is_quietest() -> None:
    words = tuple(SungWord(f"w{i}", i * 1.0, i * 1.0 + 0.9) for i in range(45))
    lyrics = Lyrics((LyricLine("one long sentence", 0.0, 44.9, words),))
    voice = np.full(1125, LOUD)
    voice[547:552] = -60.0  # the pause after the 22nd word
    cut = cut_recording(recording(), *scan_of({"vocals": voice, "accompaniment": np.full(1125, SOFT)}), lyrics)
    assert [s.frames for s in cut.segments] == pytest.approx([549, 576], abs=4)
    assert [len(s.words) for s in cut.segments] == [22, 23] and cut.notes == ()
    assert cut.segments[0].text.split() == [f"w{i}" for i in range(22)]


def test_a_word_of_more_than_30_s_is_lost_and_told() -> None:
    lyrics = Lyrics((LyricLine("ah", 1.0, 39.0, (SungWord("ah", 1.0, 39.0),)),))
    cut = cut_recording(recording(), *scan_of({"mix": np.full(1000, LOUD)}), lyrics)
    assert cut.notes == ("1 words cut by a boundary or in silence",)
    assert covered(cut.segments, 1000).all() and all(s.text == "" for s in cut.segments)


def test_text_without_spaces_stays_without() -> None:
    signs = tuple(SungWord(c, i * 1.0, i + 0.9) for i, c in enumerate("春眠不觉晓处处闻啼鸟夜来风雨声花落知多少" * 2))
    lyrics = Lyrics((LyricLine("".join(w.text for w in signs), 0.0, 39.9, signs),), "zh")
    cut = cut_recording(recording(), *scan_of({"mix": np.full(1000, LOUD)}), lyrics)
    assert "".join(s.text for s in cut.segments) == lyrics.text and cut.segments[0].language == "zh"


def test_cuts_lie_in_the_pauses_of_the_voice() -> None:
    voice = levels(*[(LOUD, 11), (QUIET, 1.0)] * 8)
    cut = cut_recording(recording(), *scan_of({"vocals": voice, "accompaniment": np.full(len(voice), SOFT)}))
    ends = [s.start_frame + s.frames for s in cut.segments[:-1]]
    assert ends and all(voice[end] == QUIET and voice[end - 1] == QUIET for end in ends)


def test_an_intro_an_interlude_and_an_outro_are_instrumental() -> None:
    voice = levels((QUIET, 12), (LOUD, 20), (QUIET, 9), (LOUD, 20), (QUIET, 14))
    cut = cut_recording(recording(), *scan_of({"vocals": voice, "accompaniment": np.full(len(voice), SOFT)}))
    found = [(s.activity, s.types) for s in cut.segments]
    sung, played = ("mix", "vocals", "accompaniment"), ("mix", "instrumental")
    assert found == [("instrumental", played), ("voice", sung), ("instrumental", played), ("voice", sung),
                     ("instrumental", played)]  # fmt: skip
    assert covered(cut.segments, len(voice)).all()


def test_a_voice_that_is_hardly_there_is_no_vocal_sample() -> None:
    voice = levels((QUIET, 4), (LOUD, 1), (QUIET, 4))
    cut = cut_recording(recording(), *scan_of({"vocals": voice, "accompaniment": np.full(len(voice), SOFT)}))
    assert [s.types for s in cut.segments] == [("mix",)] and cut.segments[0].activity == "voice"


def test_long_silence_is_in_no_segment() -> None:
    mix = levels((-120, 10), (LOUD, 20), (-120, 12), (LOUD, 20), (-120, 8))
    item = recording("instrumental")
    cut = cut_recording(item, *scan_of({"mix": mix}))
    check(item, cut.segments, len(mix))
    assert covered(cut.segments, len(mix))[mix == LOUD].all()
    assert sum(s.frames for s in cut.segments) < 45 * 25


def test_pauses_of_a_voice_alone_may_go() -> None:
    voice = levels((LOUD, 12), (QUIET, 40), (LOUD, 12))
    cut = cut_recording(recording("voice"), *scan_of({"vocals": voice}))
    assert len(cut.segments) == 2 and all(s.types == ("vocals",) and s.seconds < 14 for s in cut.segments)


@pytest.mark.parametrize(
    ("kind", "stems", "timed", "activity", "types", "stored"),
    [
        ("song", ("mix",), True, "lyrics", ("mix",), ("mix",)),
        ("song", ("mix",), False, "unknown", ("mix",), ("mix",)),
        ("music", ("mix",), False, "unknown", ("other",), ("mix",)),
        ("music", ("mix",), True, "lyrics", ("mix",), ("mix",)),
        ("song", ("mix", "vocals", "accompaniment"), True, "lyrics", ("mix", "vocals", "accompaniment"),
         ("vocals", "accompaniment")),
        ("music", ("vocals", "accompaniment"), False, "voice", ("mix", "vocals", "accompaniment"),
         ("vocals", "accompaniment")),
        ("song", ("mix", "vocals", "drums", "bass", "other"), False, "voice", ("mix", "vocals", "accompaniment"),
         ("vocals", "drums", "bass", "other")),
        ("song", ("mix", "vocals"), False, "voice", ("mix", "vocals"), ("mix", "vocals")),
        ("instrumental", ("mix",), True, "instrumental", ("instrumental",), ("accompaniment",)),
        ("voice", ("mix",), True, "lyrics", ("vocals",), ("vocals",)),
        ("speech", ("vocals",), False, "voice", ("other",), ("vocals",)),
        ("sound", ("mix",), False, "unknown", ("other",), ("mix",)),
    ],
)  # fmt: skip
def test_kinds(
    kind: Kind, stems: tuple[str, ...], timed: bool, activity: str, types: tuple[str, ...], stored: tuple[str, ...]
) -> None:
    scan, rows = scan_of({stem: np.full(500, LOUD) for stem in stems})
    segment = segment_recording(recording(kind), scan, rows, lines((1, 6), (7, 19)) if timed else None)[0]
    assert (segment.activity, segment.types, segment.stems) == (activity, types, stored)


@given(
    st.sampled_from(["song", "music", "instrumental", "voice", "speech", "sound"]),
    st.sets(st.sampled_from(["mix", "vocals", "accompaniment", "drums", "bass", "other"]), min_size=1),
)
def test_stems_come_from_files_that_are_there(kind: Kind, audio: set[str]) -> None:
    sources = stem_sources(kind, audio)
    assert sources and set(sources.values()) <= audio
    assert not ({"mix"} < set(sources) and {"vocals", "accompaniment"} <= set(sources)), "that mix is a sum"
    if "mix" in audio and kind in ("song", "music"):
        assert "mix" in tracks(sources)


def test_text_without_times_belongs_to_a_recording_that_is_one_segment() -> None:
    lyrics = Lyrics((LyricLine("printing in the only sense"),), "en")
    short, long = (scan_of({"vocals": np.full(frames, LOUD)}) for frames in (250, 2500))
    assert [s.text for s in segment_recording(recording("speech"), *short, lyrics)] == ["printing in the only sense"]
    cut = cut_recording(recording("speech"), *long, lyrics)
    assert {s.text for s in cut.segments} == {""} and cut.notes[0].startswith(LYRICS_LOST) and "LRC" in cut.notes[0]


def test_a_note_says_that_lyrics_are_lost_just_where_they_are() -> None:
    """Of lyrics without times: a recording of one segment has them all, one of several has none; blank ones were never there."""
    for frames, text in ((250, "la"), (250, " "), (2500, "la"), (2500, " ")):
        cut = cut_recording(recording(), *scan_of({"mix": np.full(frames, LOUD)}), Lyrics((LyricLine(text),)))
        assert bool(cut.notes) == (bool(text.strip()) and not any(s.text for s in cut.segments)), (frames, text)


def test_lyrics_of_another_recording_are_left_out() -> None:
    voice = levels((LOUD, 30), (QUIET, 60))
    stems = {"vocals": voice, "accompaniment": np.full(len(voice), SOFT)}
    cut = cut_recording(recording(), *scan_of(stems), lines((40, 46), (47, 55), (60, 80)))
    assert {s.text for s in cut.segments} == {""} and "only 0% of their time has voice" in cut.notes[0]


def test_bad_times() -> None:
    """Lines outside, reversed or without length cost themselves only; overlapping ones are kept whole together."""
    nan = float("nan")
    lyrics = Lyrics((
        *lines((2, 9), (6, 14), (8, 16)).lines, LyricLine("late", 70.0, 75.0), LyricLine("back", 9.0, 3.0), LyricLine("no", 5.0, 5.0),
        LyricLine("nan", nan, 7.0), LyricLine("edge", 36.0, 40.2), LyricLine("  ", 30.0, 31.0),
    ))  # fmt: skip
    cut = cut_recording(recording(), *scan_of({"mix": np.full(1000, LOUD)}), lyrics)
    assert cut.notes == ("2 lines without text or times", "3 lines that do not lie within the recording")
    assert sum(len(s.words) for s in cut.segments) == 12
    assert "edge" in cut.segments[-1].text, "40 ms behind the end are rounding"


def test_what_cannot_be_a_segment_says_why() -> None:
    assert cut_recording(recording(), *scan_of({"mix": np.full(99, LOUD)})).reason == "shorter than 5 s"
    assert cut_recording(recording(), *scan_of({"mix": np.full(500, -120.0)}, None)).reason == "silent"
    hiss = scan_of({"vocals": np.full(500, -60.0)}, -58.0)
    assert cut_recording(recording("voice"), *hiss).reason == "nothing in it is worth a segment"
    kept = segment_recording(recording(), *scan_of({"mix": np.full(99, LOUD)}), config=SegmentConfig(whole_seconds=1))
    assert [(s.start_frame, s.frames) for s in kept] == [(0, 99)]
    scan, rows = scan_of({"mix": np.full(500, LOUD)})
    with pytest.raises(CorpusError, match="scan it again"):
        cut_recording(recording(), scan, rows[:, :-1])


def test_no_voice_is_lost_where_two_segments_hardly_fit() -> None:
    config = SegmentConfig(min_seconds=5, max_seconds=10, target_seconds=7)
    for frames in range(251, 276):
        rng = np.random.default_rng(frames)
        scan, rows = scan_of({name: LOUD + rng.normal(0, 2, frames) for name in ("vocals", "accompaniment")})
        stems = {"vocals": "v.wav", "accompaniment": "a.wav"}
        found = segment_recording(recording(audio=stems), scan, rows, config=config)
        assert sum(s.frames for s in found) == frames


def test_segments_of_minutes_that_hardly_fit_twice_take_little_memory() -> None:
    """Every frame as a candidate took 600 MB for a song of 220 s in segments of 120 to 200 s."""
    frames, none = 5500, np.zeros(5500, bool)
    material = Material(np.zeros(frames + 1), np.full(frames, 50.0), ~none, none, none)
    tracemalloc.start()
    cuts = best_cuts(material, 3000, 5000, 4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [stop - start for start, stop in cuts] == [5000] and peak < 50e6


def test_a_bark_in_silence_is_kept() -> None:
    mix = levels((-110, 3), (LOUD, 0.4), (-110, 3))
    assert [s.frames for s in segment_recording(recording("sound"), *scan_of({"mix": mix}))] == [len(mix)]


def test_loudness_and_gain() -> None:
    mix = levels((LOUD, 15), (LOUD - 10, 15))
    cut = cut_recording(
        recording("instrumental"), *scan_of({"mix": mix}, -21.0), config=SegmentConfig(target_seconds=15)
    )
    assert {s.gain_db for s in cut.segments} == {3.0}
    assert cut.segments[0].loudness > cut.segments[-1].loudness + 5
    quiet = segment_recording(recording("sound"), *scan_of({"mix": np.full(500, -60.0)}, -65.0))
    assert quiet[0].gain_db == 30.0


def test_mono_counts_as_heard_from_two_channels() -> None:
    """As `encode` takes it: the same sound as one channel and as two equal ones has one gain."""
    sound = torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0)) / 20
    gains = set()
    for channels in (1, 2):
        measured = integrated_loudness([sound.expand(channels, -1)], 48_000)
        scan, rows = scan_of({"mix": np.full(500, LOUD)}, measured)
        (segment,) = segment_recording(recording("sound"), {**scan, "channels": channels}, rows)
        gains.add((segment.gain_db, segment.loudness))
    assert len(gains) == 1


def test_configs_that_cannot_work() -> None:
    from duotok.config import parse

    for values in ({"max_seconds": 9}, {"min_seconds": 0}, {"target": 3}, {"activity": {"floor": 1}}):
        with pytest.raises(ConfigError):
            parse(SegmentConfig, values)
    assert ActivityConfig() == SegmentConfig().activity


@settings(max_examples=25, deadline=None)
@given(st.integers(125, 4000), st.integers(0, 2**32 - 1))
def test_any_costs_can_be_tiled(frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cut = rng.exponential(10, frames + 1)
    nothing = np.zeros(frames, bool)
    found = best_cuts(Material(cut, np.full(frames, 50.0), ~nothing, nothing, nothing), 125, 750, 375)
    assert found[0, 0] == 0 and found[-1, 1] == frames and (found[1:, 0] == found[:-1, 1]).all()
    assert set(found.ravel().tolist()) <= set(candidates(cut).tolist())


def test_the_cutter_finds_the_cheapest_chain() -> None:
    """Against all chains there are, on a small case."""
    rng = np.random.default_rng(3)
    frames, shortest, longest, wanted = 150, 24, 60, 40
    cut = rng.uniform(0, 4, frames + 1)
    cut[[0, -1]] = 0
    no = np.zeros(frames, bool)
    found = best_cuts(Material(cut, np.full(frames, 50.0), no, no, no), shortest, longest, wanted)
    at = candidates(cut).tolist()

    def price(chain: tuple[int, ...]) -> float:
        pairs = list(itertools.pairwise(chain))
        if any(not shortest <= b - a <= longest for a, b in pairs):
            return np.inf
        return float(sum((cut[a] + cut[b]) / 2 + np.log2((b - a) / wanted) ** 2 for a, b in pairs))

    chains = ((0, *inner, frames) for n in range(7) for inner in itertools.combinations(at[1:-1], n))
    best = min(chains, key=price)
    assert [found[0, 0], *found[:, 1]] == list(best)


# the step


def put(
    work: Path, item: Recording, stems: dict[str, np.ndarray], lyrics: Lyrics | None = None, **facts: Any
) -> Recording:
    """Write what the scan and the transcribe step would have."""
    text, rows = scan_files(work / "scan", item.id)
    scan, values = scan_of(stems)
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(json.dumps({"sha256": {stem: f"{item.id} {stem}" for stem in stems}, **scan, **facts}))
    np.save(rows, values, allow_pickle=False)
    if lyrics is not None:
        path = work / "lyrics" / f"{item.id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(lyrics.as_json()))
    return item


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A catalog: songs with lyrics, one of another licence, one not scanned, one short, one with broken lyrics."""
    rng = np.random.default_rng(0)
    items = []
    for n in range(70):
        frames = 1500 + 10 * n
        stems = {name: LOUD + rng.normal(0, 5, frames) for name in ("vocals", "accompaniment")}
        values = {"split": ("train", "validation", "test")[n % 10 % 3], "identity": f"artist {n % 10}"}
        item = recording("song", f"s{n:02d}", licence="CC BY-NC 4.0" if n == 3 else "CC BY 4.0", **values)
        items.append(put(tmp_path, item, stems, lines((2, 8), (9, 15), (17, 30), (31, 40)) if n % 2 else None))
    items.append(recording("song", "unscanned"))
    items.append(recording("song", "torn"))
    items.append(put(tmp_path, recording("sound", "brief"), {"mix": np.full(50, LOUD)}))
    items.append(put(tmp_path, recording("song", "broken"), {"mix": np.full(500, LOUD)}))
    (tmp_path / "lyrics/c/broken.json").write_text("{")
    (tmp_path / "ledger").mkdir()
    row = {"unit": "c/torn", "stamp": "", "ok": False, "error": "torn.flac: damaged at 3 s"}
    (tmp_path / "ledger/scan.jsonl").write_text(json.dumps(row) + "\n")
    catalog.write(tmp_path, Catalog(items))
    return tmp_path


def test_the_step(work: Path) -> None:
    result = segment_all(work)
    assert read_table(work / TABLE, Segment) == result.segments
    assert result.left_out == {
        "c/unscanned": "not scanned", "c/torn": "scan: torn.flac: damaged at 3 s", "c/brief": "shorter than 5 s",
    }  # fmt: skip
    assert "broken.json" in result.notes["c/broken"][0] and "broken.json" in lyrics_warning(result.notes)
    ledger = read_ledger(work / LEDGER)
    assert len(ledger) == 74 and ledger["c/torn"].error.startswith("scan:")
    told = ledger["c/s01"].result
    assert told is not None and told["segments"] == sum(s.recording == "c/s01" for s in result.segments)
    facts = summary(result.segments)
    assert (
        facts["all"]["all"]["segments"] == len(result.segments) == sum(c["segments"] for c in facts["split"].values())
    )
    assert not list(work.rglob("*.partial"))


def test_no_sound_is_in_two_splits(tmp_path: Path) -> None:
    """A copy under another name, in a split of its own, is left out of the one that learns."""
    hashes = {"a": "one", "b": "one", "c": "two", "d": "two", "e": "two", "f": "one"}
    splits = {"a": "train", "b": "test", "c": "train", "d": "validation", "e": "train", "f": "validation"}
    items = [recording("sound", name, split=splits[name]) for name in hashes]
    catalog.write(tmp_path, Catalog(items))
    for item, sha256 in zip(items, hashes.values(), strict=True):
        put(tmp_path, item, {"mix": np.full(500, LOUD)}, sha256={"mix": sha256})
    found = segment_all(tmp_path)
    assert {s.recording for s in found.segments} == {"c/b", "c/d"}
    assert found.left_out["c/a"] == "the same sound as c/b, which is in test" == found.left_out["c/f"]
    assert found.left_out["c/c"] == "the same sound as c/d, which is in validation"


def test_parts_of_one_file_are_copies_where_they_overlap(tmp_path: Path) -> None:
    """An album in one file has a song after the other; they may be of several artists, and so of several splits."""
    parts = {
        "a": ("train", 0.0, 20.0), "b": ("test", 20.0, 40.0), "c": ("train", 40.0, 0.0), "d": ("train", 30.0, 50.0),
    }  # fmt: skip
    items = [recording("sound", name, split=of[0], start=of[1], stop=of[2]) for name, of in parts.items()]
    catalog.write(tmp_path, Catalog(items))
    for item in items:
        put(tmp_path, item, {"mix": np.full(500, LOUD)}, sha256={"mix": "one file"})
    found = segment_all(tmp_path)
    assert {s.recording for s in found.segments} == {"c/a", "c/b", "c/c"}
    assert found.left_out == {"c/d": "the same sound as c/b, which is in test"}


def test_no_identity_is_in_two_splits(work: Path) -> None:
    splits: dict[tuple[str, str], set[str]] = {}
    for segment in segment_all(work, dry_run=True).segments:
        splits.setdefault((segment.corpus, segment.identity), set()).add(segment.split)
    assert len(splits) == 11 and all(len(found) == 1 for found in splits.values())
    items = catalog.read(work)
    moved = next(item for item in items if item.split == "test")
    catalog.write(
        work, Catalog([dataclasses.replace(item, split="train") if item is moved else item for item in items])
    )
    with pytest.raises(CorpusError, match=moved.identity):
        segment_all(work)
    assert not (work / TABLE).exists()


def test_licences(work: Path) -> None:
    result = segment_all(work, licences=("attribution", "public-domain"), dry_run=True)
    assert result.left_out["c/s03"] == "licence: non-commercial"
    with pytest.raises(CorpusError, match="attribution"):
        segment_all(work, licences=("free",))
    with pytest.raises(CorpusError, match="licence"):
        segment_all(work, licences=("restricted",))
    assert not (work / TABLE).exists()


def test_every_engine_and_every_run_gives_the_same_bytes(work: Path) -> None:
    class Backwards:
        """Any order is allowed to an engine."""

        def map(self, function: Any, payloads: Any) -> Any:
            for index, payload in reversed(list(enumerate(payloads))):
                yield index, attempt(function, json.loads(json.dumps(payload)))

    segment_all(work, engine=LocalEngine())
    first = (work / TABLE).read_bytes(), (work / LEDGER).read_bytes()
    segment_all(work, engine=Backwards())
    assert ((work / TABLE).read_bytes(), (work / LEDGER).read_bytes()) == first


def test_nothing_to_cut(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"recordings\.parquet"):
        segment_all(tmp_path)
    catalog.write(tmp_path, Catalog([recording()]))
    with pytest.raises(CorpusError, match="not scanned"):
        segment_all(tmp_path)


@pytest.mark.parametrize("frames", [2, 3, 100, 6001])
def test_what_cutting_weighs_grows_with_the_length_only(frames: int) -> None:
    """One place in each block of frames, and both ends (seconds: `python -m benchmarks.segments --speed`)."""
    places = candidates(np.random.default_rng(0).random(frames))
    blocks = -(-(frames - 2) // CANDIDATE_FRAMES)
    assert len(places) == blocks + 2 and places[0] == 0 and places[-1] == frames - 1 and (np.diff(places) > 0).all()
    assert ((places[1:-1] - 1) // CANDIDATE_FRAMES == np.arange(blocks)).all()


def test_the_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import typer
    from typer.testing import CliRunner

    from duotok.cli.data.segment import segment

    app = typer.Typer()
    app.command()(segment)
    run = CliRunner().invoke(app, ["--work", str(work), "--set", "target_seconds=10", "--json", "--dry-run"])
    found = json.loads(run.stdout)
    assert run.exit_code == 0 and not found["written"] and found["left_out"]["c/brief"] == "shorter than 5 s"
    assert not (work / TABLE).exists()
    run = CliRunner().invoke(app, ["--work", str(work)])
    assert run.exit_code == 0 and "3 recordings left out" in run.output and (work / TABLE).is_file()
    assert "lyrics of 1 recordings are left out: 1 x " in run.output


def test_frames_and_seconds_agree() -> None:
    assert SAMPLE_RATE / FRAME_SAMPLES == 25
