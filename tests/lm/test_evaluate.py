"""Scores: by hand, batched as single, cut alike for all codecs, resumable, of the right model only."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.lm.small import CODEC, MIXED, corpus, model, song, songs

from duotok.errors import ConfigError, DuoTokError, TokenFileError
from duotok.lm import evaluate as module
from duotok.lm.corpus import TokenCorpus
from duotok.lm.evaluate import evaluate, joined, score_songs
from duotok.lm.pieces import pieces
from duotok.lm.protocols import aligned, parallel, track_to_track
from duotok.lm.scores import SongScore, load_scores, save_scores
from duotok.lm.streams import CodecIdentity

PARALLEL = parallel(CODEC)
TO_BAND = track_to_track(CODEC, "vocals", "accompaniment", 0.2)


def close(a: list[SongScore], b: list[SongScore]) -> None:
    assert [(s.song, s.stream, s.codebook, s.size) for s in a] == [(s.song, s.stream, s.codebook, s.size) for s in b]
    for one, two in zip(a, b, strict=True):
        np.testing.assert_allclose(one.bits, two.bits, atol=1e-4)
        assert np.array_equal(one.codes, two.codes) and (one.ranks == two.ranks).mean() > 0.99


def test_bits_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    lm, one = model(), song("a", 10)
    scores = score_songs(lm, [one], PARALLEL, seconds=1.0, shortest=0.1)
    assert capsys.readouterr() == ("", ""), "no bar, and no blank line in its place, without a terminal"
    codes = torch.from_numpy(np.concatenate([one.tokens["vocals"], one.tokens["accompaniment"]])).T.long()
    with torch.no_grad():
        logits = lm(torch.cat([torch.tensor([[20, 20]]), codes[:-1]])[None])
    for k, score in enumerate(scores):
        wanted = torch.nn.functional.cross_entropy(logits[k][0, :, :20], codes[:, k], reduction="none") / math.log(2)
        np.testing.assert_allclose(score.bits, wanted.numpy(), atol=1e-5)
        assert np.array_equal(score.codes, one.tokens[score.stream][0])
        assert score.bits.dtype == np.float32 and score.ranks.dtype == score.codes.dtype == np.int32
    assert [s.stream for s in scores] == ["vocals", "accompaniment"]


@pytest.mark.parametrize("codec", [CODEC, MIXED])
def test_the_uniform_model_has_a_cnbpt_of_one(codec: CodecIdentity) -> None:
    lm = model(codec)
    for head in lm.outputs.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    for score in score_songs(lm, songs(codec), parallel(codec), seconds=2.0, shortest=0.5):
        assert np.array_equal(score.bits, np.full(len(score.bits), math.log2(score.size), np.float32))
        assert np.array_equal(score.ranks, score.codes)


@pytest.mark.parametrize("protocol", [PARALLEL, TO_BAND, aligned(CODEC, "vocals", "accompaniment", 0.2)])
def test_batched_equals_single(protocol: object, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, given = model(), songs()
    sizes: list[int] = []
    scores = lm.scores
    monkeypatch.setattr(lm, "scores", lambda tokens, *more: sizes.append(len(tokens)) or scores(tokens, *more))
    single = score_songs(lm, given, protocol, seconds=1.0, shortest=0.3, batch_size=1)  # type: ignore[arg-type]
    assert set(sizes) == {1}
    several = score_songs(lm, given, protocol, seconds=1.0, shortest=0.3, batch_size=7)  # type: ignore[arg-type]
    assert max(sizes) == 7
    close(several, single)
    assert {s.song for s in several} == {s.id for s in given} and all(len(s.bits) and s.bits.min() > 0 for s in several)


@pytest.mark.parametrize("protocol", [PARALLEL, TO_BAND])
def test_the_last_frames_alone_have_the_scores_that_they_have_among_all(protocol: object) -> None:
    lm, given = model(), songs()
    whole = score_songs(lm, given, protocol, seconds=9.0, shortest=0.3)  # type: ignore[arg-type]
    found = score_songs(lm, given, protocol, seconds=9.0, shortest=0.3, last=7)  # type: ignore[arg-type]
    ends = [replace(s, **{n: getattr(s, n)[-7:] for n in ("bits", "ranks", "codes")}) for s in whole]
    close(found, ends)
    assert all(len(s.bits) == 7 for s in found)


def test_only_the_target_is_scored_and_not_its_prefix() -> None:
    given = song("a", 60)
    scores = score_songs(model(), [given], TO_BAND, seconds=1.0, shortest=0.4)
    assert [s.stream for s in scores] == ["accompaniment"]
    band = given.tokens["accompaniment"][0]
    assert np.array_equal(scores[0].codes, np.concatenate([band[5:25], band[30:50], band[55:]]))


def test_masked_sources_are_read_but_wrong_codes_are_not() -> None:
    lm, given = model(), song("a", 30)
    source = given.tokens["vocals"].copy()
    source[:, ::2] = 22
    masked = replace(given, tokens={**given.tokens, "vocals": source})
    spoiled = score_songs(lm, [masked], TO_BAND, seconds=2.0, shortest=0.5)[0]
    assert not np.array_equal(spoiled.bits, score_songs(lm, [given], TO_BAND, seconds=2.0, shortest=0.5)[0].bits)
    with pytest.raises(TokenFileError, match=r"vocals\.0 holds token 22"):
        score_songs(lm, [masked], PARALLEL, seconds=2.0, shortest=0.5)


def test_pieces_are_the_same_seconds_for_every_codec() -> None:
    for codec in (CODEC, MIXED, replace(CODEC, frame_rate=43.07)):
        length = math.ceil(70.5 * codec.frame_rate)
        found = pieces([song("a", length, codec)], codec, 30.0, 5.0)
        assert [round(piece.start / codec.frame_rate) for piece in found] == [0, 30, 60]
        assert found[0].stop == found[1].start and found[1].stop == found[2].start and found[2].stop == length
        assert len(pieces([song("a", codec.frames(63.0), codec)], codec, 30.0, 5.0)) == 2  # 3 s are left out
        assert pieces([song("a", codec.frames(4.0), codec)], codec, 30.0, 5.0) == []


def test_a_stopped_evaluation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, given = model(), songs(count=9)
    settings = {"seconds": 1.0, "shortest": 0.3, "batch_size": 2}
    whole = score_songs(lm, given, PARALLEL, **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "GROUP", 2)
    calls, real = [], module.score_pieces

    def dies(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "score_pieces", dies)
    with pytest.raises(KeyboardInterrupt):
        score_songs(lm, given, PARALLEL, out=tmp_path, **settings)  # type: ignore[arg-type]
    finished = len(list(tmp_path.glob("song-*")))
    assert 0 < finished < 9
    calls.extend([()] * 10)
    close(score_songs(lm, given, PARALLEL, out=tmp_path, **settings), whole)  # type: ignore[arg-type]
    before = len(calls)
    close(score_songs(lm, given, PARALLEL, out=tmp_path, **settings), whole)  # type: ignore[arg-type]
    assert len(calls) == before and len(list(tmp_path.glob("song-*"))) == 9


def test_a_folder_of_other_scores_is_refused(tmp_path: Path) -> None:
    given = songs()
    score_songs(model(), given, PARALLEL, seconds=1.0, shortest=0.3, out=tmp_path)
    for lm, chosen, seconds, what in (
        (model(seed=1), given, 1.0, "model"), (model(), given[1:], 1.0, "songs"), (model(), given, 2.0, "seconds"),
    ):  # fmt: skip
        with pytest.raises(DuoTokError, match=rf"another evaluation \({what} differ\)"):
            score_songs(lm, chosen, PARALLEL, seconds=seconds, shortest=0.3, out=tmp_path)
    (tmp_path / "facts.json").unlink()  # scores of any model were taken then
    with pytest.raises(DuoTokError, match=r"no facts\.json that says of which model"):
        score_songs(model(seed=1), given, PARALLEL, seconds=1.0, shortest=0.3, out=tmp_path)


def test_stretches_of_a_recording_become_one_song(tmp_path: Path) -> None:
    given = [
        song("r@40", 30, split="test", recording="r", start_frame=40), song("q", 20, split="test"),
        song("r", 25, split="test", recording="r"),
    ]  # fmt: skip
    packed = TokenCorpus(corpus(tmp_path, CODEC, given))
    found = evaluate(model(), packed, "test", PARALLEL, seconds=1.0, shortest=0.2)
    assert [(s.song, s.stream) for s in found] == [
        ("r", "vocals"), ("r", "accompaniment"), ("q", "vocals"), ("q", "accompaniment"),
    ]  # fmt: skip
    assert np.array_equal(found[0].codes, np.concatenate([given[2].tokens["vocals"][0], given[0].tokens["vocals"][0]]))
    apart = score_songs(model(), packed.songs("test"), PARALLEL, seconds=1.0, shortest=0.2)
    assert len(apart) == 6 and len(joined(apart, packed.songs("test"))) == 4


def test_mistakes(tmp_path: Path) -> None:
    packed = TokenCorpus(corpus(tmp_path))
    twin = replace(CODEC, hash="ff" * 32)
    with pytest.raises(TokenFileError, match="tokens of tiny abababababab, expected those of tiny ffffffffffff"):
        evaluate(model(twin), packed, "train", parallel(twin))
    with pytest.raises(ConfigError, match="a prefix of 2 s leaves nothing of the shortest piece, 1 s"):
        evaluate(model(), packed, "train", track_to_track(CODEC, "vocals", "accompaniment"), shortest=1.0)
    with pytest.raises(TokenFileError, match="no song of at least 5 s among 4"):
        evaluate(model(), packed, "train", PARALLEL)


def test_scores_survive_their_file(tmp_path: Path) -> None:
    scores = score_songs(model(MIXED), songs(MIXED), parallel(MIXED), seconds=2.0, shortest=0.5)
    facts = {"protocol": "parallel", "seconds": 2.0}
    save_scores(tmp_path / "a", scores, facts)
    save_scores(tmp_path / "b", scores, facts)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found, kept = load_scores(tmp_path / "a")
    assert kept == facts
    close(found, scores)
    assert all(
        np.array_equal(a.bits, b.bits) and a.bits.dtype == np.float32 for a, b in zip(found, scores, strict=True)
    )
    save_scores(tmp_path / "none", [], {})
    assert load_scores(tmp_path / "none") == ([], {})
    whole = (tmp_path / "a").read_bytes()
    for bad in (b"", b"hello", whole[:-5]):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(TokenFileError, match="no scores of DuoTok, or damaged"):
            load_scores(tmp_path / "bad")
    with pytest.raises(TokenFileError, match="no such file"):
        load_scores(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="they go together"):
        SongScore("a", "b", 0, 4, np.zeros(2, np.float32), np.zeros(1, np.int32), np.zeros(2, np.int32))
