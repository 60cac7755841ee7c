"""Batches of crops: an item is the same wherever, whenever and with whomever it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.shards.shard_maker import make_shards, segment, small_songs

from duotok.audio.features import MEL_STD, LogMel
from duotok.errors import ConfigError
from duotok.pool import context
from duotok.random import item_seed
from duotok.shards.deriving import derive
from duotok.shards.features import Features, derive_features
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.crop_batches import Batch, CropBatches, CropConfig, PseudoMix, crop, mix_mels, text_inside

WORDS = tuple((f"w{chr(97 + k)}", 0.5 + k, 1.0 + k) for k in range(3))
SEGMENTS = [
    *small_songs(6),
    segment("songs/long", frames=100, words=WORDS),
    *(
        segment(f"band/b{i}", frames=20 + i, kind="instrumental", stems=("accompaniment",), types=("instrumental",))
        for i in range(3)
    ),
    segment("solo/a", frames=33, kind="voice", stems=("vocals",), types=("vocals",)),
    segment("talk/a", frames=40, kind="speech", stems=("vocals",), types=("other",), words=WORDS[:1]),
    segment("noise/a", frames=21, kind="sound", stems=("mix",), types=("other",)),
]
STAGE2 = {
    "mix": Component(weight=4, types=("mix",), lyrics=True),
    "vocals": Component(types=("vocals",), lyrics=True),
    "accompaniment": Component(types=("accompaniment",), lyrics=True),
    "instrumental": Component(types=("instrumental",)),
}
BINS = 5
BATCH = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crops")
    make_shards(path / "shards", SEGMENTS, per_shard=5)
    return path


@pytest.fixture(scope="module")
def bare(root: Path) -> ShardStore:
    return ShardStore(root / "shards")


@pytest.fixture(scope="module")
def store(root: Path) -> ShardStore:
    found = ShardStore(root / "shards", root / "derived")
    derive_features(found)

    def masks(index: int, track: str) -> np.ndarray:
        rows = np.arange(4 * found.frames[index])[:, None]
        return rows + np.arange(4 * BINS) / 100

    some = found.select(needs=("mix",), kinds=("song",))[:-1]
    derive(found, "masks", masks, tracks=("mix",), made_by="test", select=some)
    return found


def batches(
    store: ShardStore, mixture: dict[str, Component] | None = None, seed: int = 4, masks_made_by: str | None = None,
    **config: Any,
) -> CropBatches:  # fmt: skip
    return CropBatches(
        store, "train", mixture or STAGE2, seed=seed, batch_size=BATCH, config=CropConfig(**{"frames": 24, **config}),
        masks_made_by=masks_made_by,
    )  # fmt: skip


def same_item(a: Batch, at: int, b: Batch, there: int, exact: bool = True) -> None:
    frames = int(a["lengths"][at])
    assert frames == int(b["lengths"][there])
    for name in ("mel", "chroma", "masks"):
        if name in a:
            one, other = a[name][at, : 4 * frames], b[name][there, : 4 * frames]
            assert torch.equal(one, other) if exact else torch.allclose(one, other, rtol=2e-3, atol=2e-3)
            assert not a[name][at, 4 * frames :].any()
    letters = int(a["text_lengths"][at])
    assert a["text"][at, :letters].tolist() == b["text"][there, : int(b["text_lengths"][there])].tolist()
    for name in ("track", "lyrics", "seeds", "ids", "types"):
        assert a[name][at] == b[name][there]


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_an_item_does_not_know_the_others(store: ShardStore, share: float) -> None:
    pseudo = PseudoMix(share=share)
    first = batches(store, mask_bins=BINS, pseudo_mix=pseudo)
    second = batches(store, mask_bins=BINS, pseudo_mix=pseudo)
    for step in range(6):
        whole = first.batch(step, range(BATCH))
        assert len(whole["ids"]) == BATCH
        for items in ([5, 2], [6], [0, 1, 3, 4]):
            part = second.batch(step, items)
            for at, item in enumerate(items):
                same_item(part, at, whole, item)
    assert whole["seeds"].tolist() == [item_seed(4, 5, item) for item in range(BATCH)]


def _draw(found: CropBatches) -> list[torch.Tensor]:
    return [found.batch(3, [2, 4])[name] for name in ("mel", "text", "seeds")]


def test_nor_the_process(store: ShardStore) -> None:
    found = batches(store)
    with context().Pool(1) as workers:
        for here, there in zip(_draw(found), workers.apply(_draw, (found,)), strict=True):
            assert torch.equal(here, there)


def test_seeds_and_steps_differ(store: ShardStore) -> None:
    base = batches(store).batch(0, range(BATCH))
    for other in (batches(store, seed=5).batch(0, range(BATCH)), batches(store).batch(1, range(BATCH))):
        assert other["ids"] != base["ids"]
        assert not set(other["seeds"].tolist()) & set(base["seeds"].tolist())


def test_stored_features_are_those_made_on_the_fly(store: ShardStore, bare: ShardStore) -> None:
    mixture = {**STAGE2, "rest": Component(weight=2, types=("other", "vocals"))}
    stored, made = batches(store, mixture), batches(bare, mixture)
    assert not any(bare.has(index, track, "mel") for index in range(len(bare.segments)) for track in TRACKS)
    seen: set[str] = set()
    for step in range(4):
        a, b = stored.batch(step, range(BATCH)), made.batch(step, range(BATCH))
        assert a["ids"] == b["ids"] and a["mel"].any()
        for item in range(BATCH):
            same_item(a, item, b, item, exact=False)
        seen |= set(a["types"])
    assert seen == {*STAGE2, "other"}


def test_a_url_gives_the_same(bare: ShardStore, root: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for path in (root / "shards").iterdir():
        memory.pipe(f"/crops-of-test/{path.name}", path.read_bytes())
    remote = batches(ShardStore("memory://crops-of-test"))
    a, b = batches(bare).batch(2, range(BATCH)), remote.batch(2, range(BATCH))
    memory.rm("/crops-of-test", recursive=True)
    assert a["ids"] == b["ids"] and a["mel"].any()
    for item in range(BATCH):
        same_item(a, item, b, item)


def test_crops_are_louder_by_their_gain(store: ShardStore) -> None:
    """Each by its own, drawn anew in every step; 20 dB are a factor of 100 in power."""
    found, plain = batches(store, gain_std_db=6.0), batches(store, gain_std_db=0.0)
    gains = []
    for step in range(20):
        for item in range(BATCH):
            plan, still = found.plan(step, item), plain.plan(step, item)
            (gain,) = {part.gain_db for part in plan.parts}
            mel, before = found.item(step, item).mel, plain.cut(still).mel
            sounding = before > before.min() + 0.5
            change = torch.log(torch.tensor(10 ** (gain / 10))) / MEL_STD
            torch.testing.assert_close(
                (mel - before)[sounding], change.expand(int(sounding.sum())), atol=1e-4, rtol=1e-4
            )
            gains.append(gain)
    assert len(set(gains)) == len(gains) and 4.5 < np.std(gains) < 7.5 and abs(np.mean(gains)) < 2


def test_crops_are_parts_of_the_features(store: ShardStore) -> None:
    found = batches(store, gain_std_db=0.0, mask_bins=BINS)
    features, seen = Features(store), set()
    for step in range(8):
        batch = found.batch(step, range(BATCH))
        for item, key in enumerate(batch["ids"]):
            kind, frames = batch["types"][item], int(batch["lengths"][item])
            index = next(i for i, s in enumerate(store.segments) if s.segment.key == key)
            track = "accompaniment" if kind == "instrumental" else kind
            whole = features.rows(index, track, ("mel",))["mel"].astype(np.float32)
            mel = batch["mel"][item, : 4 * frames].numpy()
            starts = [
                s
                for s in range(0, len(whole) - len(mel) + 1, 4)
                if np.allclose(whole[s : s + len(mel)], mel, atol=0.01)
            ]
            assert len(starts) == 1
            assert batch["track"][item] == (0 if kind == "vocals" else 1)
            assert batch["masks_items"][item] == (kind == "mix" and store.has(index, "mix", "masks"))
            if batch["masks_items"][item]:
                rows = starts[0] + torch.arange(4 * frames)[:, None, None]
                true = rows + torch.arange(4 * BINS).view(1, 4, BINS) / 100
                assert torch.allclose(batch["masks"][item, : 4 * frames], true, rtol=2e-3)
            seen.add(kind)
    assert seen == set(STAGE2)


@pytest.mark.parametrize(("coverage", "covered"), [("vocals", {"vocals"}), ("mix+vocals", {"mix", "vocals"})])
def test_text_where_it_counts(store: ShardStore, coverage: str, covered: set[str]) -> None:
    found = batches(store, asr_coverage=coverage)
    kinds: dict[str, set[bool]] = {}
    available = 0
    for step in range(20):
        batch = found.batch(step, range(BATCH))
        available += int(batch["lyrics"].sum())
        for kind, letters, text in zip(batch["types"], batch["text_lengths"].tolist(), batch["text"], strict=True):
            kinds.setdefault(kind, set()).add(letters > 0)
            assert "word" in found.vocabulary.decode(text[:letters].tolist()) or letters < 10
    assert {kind for kind, some in kinds.items() if True in some} == covered
    assert all(kinds[kind] == {True} for kind in covered)
    assert available == 20 * 5  # lyrics are available in 5 of 7 samples: paper, C.3


def stored_of(store: ShardStore, recording: str) -> Any:
    return next(s for s in store.segments if s.segment.recording == recording)


def test_only_whole_words(store: ShardStore) -> None:
    long = stored_of(store, "songs/long")
    assert text_inside(long, 0, 100) == "wa wb wc"
    assert text_inside(long, 13, 37) == "wb"  # 0.52 to 2.00 s: the first word began at 0.5
    assert text_inside(long, 12, 38) == "wa wb"
    assert text_inside(long, 26, 10) == ""
    untimed = segment("a/b", frames=50, text="all of it")
    assert text_inside(type(long)(untimed, "", 0, {}, {}, {}), 0, 50) == "all of it"
    assert text_inside(type(long)(untimed, "", 0, {}, {}, {}), 0, 49) == ""


def test_crops_of_sung_segments_hold_a_word(store: ShardStore) -> None:
    long, rng = stored_of(store, "songs/long"), np.random.default_rng(0)
    drawn = [crop(rng, long, 16, lyric_active=True) for _ in range(200)]
    assert all(text_inside(long, *place) for place in drawn)
    assert all(0 <= start <= 84 and count == 16 for start, count in drawn)
    free = [crop(rng, long, 16, lyric_active=False)[0] for _ in range(400)]
    assert min(free) < 5 and max(free) > 79
    assert crop(rng, long, 10, lyric_active=True)[1] == 10  # a word longer than the crop is no obstacle
    assert crop(rng, long, 500, lyric_active=True) == (0, 100)


def test_powers_of_a_mix_add_and_silence_stays_silence() -> None:
    """Noise in turns: alone, alone, neither, both."""
    first, second = 0.3 * torch.randn(2, 96_000, generator=torch.Generator().manual_seed(0))
    first[24_000:72_000] = 0
    second[:24_000] = 0
    second[48_000:72_000] = 0
    mel = LogMel()
    error = (mix_mels(mel(first), mel(second)) - mel(first + second)).unflatten(0, (4, 100))[:, 10:-10]
    assert float(error[:3].abs().max()) < 1e-3
    assert float(error[3].mean().abs()) < 0.1


def test_pseudo_mixes_join_a_voice_and_a_band(store: ShardStore) -> None:
    mixture = {"mix": Component(types=("mix",))}
    pseudo = PseudoMix(share=1.0, level_std_db=0.0, level_db=0.0)
    found = batches(store, mixture, pseudo_mix=pseudo, gain_std_db=0.0, mask_bins=BINS, asr_coverage="mix+vocals")
    batch = found.batch(0, range(BATCH))
    assert not batch["masks_items"].any()
    assert set(batch["types"]) == {"mix"}
    assert batch["track"].tolist() == [1] * BATCH
    for key, lyrics in zip(batch["ids"], batch["lyrics"].tolist(), strict=True):
        voice, band = key.split("+")
        assert voice.startswith(("solo__a", "talk__a"))
        assert band.startswith("band__")
        assert lyrics <= voice.startswith("talk__a")
    with pytest.raises(ConfigError, match=r"'pseudo_mix\.bands' is empty"):
        nothing = PseudoMix(share=0.1, bands=Component(kinds=("sound",), types=("instrumental",)))
        batches(store, mixture, pseudo_mix=nothing)


def test_bert_word_pieces(store: ShardStore, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", *(f"##{i}" for i in range(10)), "w", "##a", "##b"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    found = batches(store, {"vocals": Component(types=("vocals",), corpora=("tiny",), lyrics=True)},
                    vocabulary=str(tmp_path / "vocab.txt"), frames=100)  # fmt: skip
    batch = found.batch(0, [0])
    assert [pieces[i] for i in batch["text"][0]] == ["word", "##0", "word", "##1", "word", "##2"]
    with pytest.raises(ConfigError, match="no such vocabulary"):
        batches(store, vocabulary="/nowhere/vocab.txt")


@pytest.mark.parametrize("bins", [BINS, BINS + 1])
def test_masks_of_another_teacher_do_not_teach(store: ShardStore, bins: int) -> None:
    """Those of its shards that the new teacher had no segment of; with another number of bins they ended in a traceback."""
    any_teacher = batches(store, mask_bins=BINS).batch(0, range(BATCH))
    same = batches(store, mask_bins=BINS, masks_made_by="test").batch(0, range(BATCH))
    assert same["masks_items"].any() and torch.equal(same["masks"], any_teacher["masks"])
    other = batches(store, mask_bins=bins, masks_made_by="another").batch(0, range(BATCH))
    assert not other["masks_items"].any() and not other["masks"].any()
    assert other["masks"].shape[2:] == (4, bins)
