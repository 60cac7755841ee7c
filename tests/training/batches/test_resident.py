"""Crops cut on the device are the crops that the loader cuts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.batches.test_crop_batches import BATCH, BINS, STAGE2, batches, root, store  # noqa: F401 - fixtures

from duotok.errors import ConfigError
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.training.batches.crop_batches import CropBatches, PseudoMix
from duotok.training.batches.resident import Resident
from duotok.training.stage import to_device

CPU = torch.device("cpu")
PSEUDO = PseudoMix(share=0.6)


def resident(made: CropBatches) -> CropBatches:
    bins = made.config.mask_bins
    made.resident = Resident(made.store, made.cut_from(), made.made_by, bins, made.masks_made_by)
    return made


@pytest.mark.parametrize("mixture", [STAGE2, {"all": Component()}], ids=["stage2", "everything"])
def test_a_batch_cut_on_the_device_is_the_one_the_loader_cuts(
    store: ShardStore,  # noqa: F811
    mixture: dict[str, Component],
) -> None:
    config = {"mask_bins": BINS, "pseudo_mix": PSEUDO}
    plain, there = batches(store, mixture, **config), resident(batches(store, mixture, **config))
    kinds: set[tuple[str, int]] = set()
    for step in range(12):
        expected = plain.batch(step, range(BATCH))
        planned = there.batch(step, range(BATCH))
        assert "mel" not in planned  # no array travels
        found = there.filled(to_device(planned, CPU), CPU)
        assert expected.keys() <= found.keys()
        for name, value in expected.items():
            same = torch.equal(value, found[name]) if isinstance(value, torch.Tensor) else value == found[name]
            assert same, name
        kinds |= {(kind, int(row[1] >= 0)) for kind, row in zip(found["types"], planned["first"], strict=True)}
        kinds |= {("masked", int(value)) for value in found["masks_items"]}
    assert {("mix", 0), ("mix", 1), ("vocals", 0), ("masked", 0), ("masked", 1)} <= kinds  # every case was met


@pytest.mark.parametrize(
    ("teacher", "bins", "held"), [("test", BINS, True), ("another", BINS, False), ("another", BINS + 1, False)]
)
def test_masks_of_another_teacher_do_not_teach(store: ShardStore, teacher: str, bins: int, held: bool) -> None:  # noqa: F811
    there = resident(batches(store, mask_bins=bins, masks_made_by=teacher))
    found = there.filled(there.batch(0, range(BATCH)), CPU)
    assert bool(found["masks_items"].any()) == bool(found["masks"].any()) == held
    assert found["masks"].shape[2:] == (4, bins)


def test_without_masks_none_are_made(store: ShardStore) -> None:  # noqa: F811
    there = resident(batches(store))
    found = there.filled(there.batch(0, range(BATCH)), CPU)
    assert "masks" not in found and set(there.resident.arrays) == {"mel", "chroma"}  # type: ignore[union-attr]


def test_features_that_are_not_stored_are_refused(root: Path) -> None:  # noqa: F811
    bare = batches(ShardStore(root / "shards"))
    with pytest.raises(ConfigError, match=r"no stored mel and chroma.*resident=false"):
        resident(bare)
