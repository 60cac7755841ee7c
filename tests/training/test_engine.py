"""The engine: killed and resumed equals uninterrupted, to the bit; broken checkpoints and losses are told."""

import errno
import itertools
import json
import math
import os
import random
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.forked import python
from torch import Tensor, nn
from torch.utils.data import DataLoader

from duotok.errors import ConfigError, DuoTokError
from duotok.random import ItemRandom
from duotok.seals import seal
from duotok.training.budget import learning_rate
from duotok.training.checkpoint import best, best_so_far, checkpoints, latest, load_module
from duotok.training.engine import Run, only_one, train
from duotok.training.leaving import Leaving, deaf
from duotok.training.processes import join
from duotok.training.saving import generator_state, restore_generators
from duotok.training.stage import Batch, Stage, StageConfig
from duotok.training.watch import stop

HERE = Path(__file__)


class Toy(Stage):
    """A regression with dropout and torch noise: any state that resume forgot would show."""

    name = "toy"

    def __init__(
        self, config: StageConfig, killed_at: int | None = None, number: signal.Signals = signal.SIGKILL
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.GELU(), nn.Linear(16, 1))
        self.modules = {"net": self.net}
        self.killed_at, self.number = killed_at, number

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        x = ItemRandom(self.seeds(step, items)).normal(8)
        return {"x": x, "y": x[:, :1] * 2 - x[:, 1:2], "ids": [f"{step}.{item}" for item in items]}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        if step == self.killed_at:
            os.kill(os.getpid(), self.number)
        noisy = batch["x"] + 0.01 * torch.randn_like(batch["x"])
        return {"loss": (self.net(noisy) - batch["y"]).square().mean()}

    def held_out(self) -> dict[str, float]:
        batch = self.batch(10_000, range(64))
        return {"mse": float((self.net(batch["x"]) - batch["y"]).square().mean())}


def config(**changes: object) -> StageConfig:
    return StageConfig.model_validate(
        {"steps": 60, "batch_size": 16, "lr": 0.02, "warmup": 5, "save_every": 10, **changes}
    )


def weights(run: Path) -> dict[str, Tensor]:
    stage = Toy(config())
    load_module(latest(run) / "net.safetensors", stage.net)
    return stage.net.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_training_lowers_the_held_out_loss(tmp_path: Path):
    before = Toy(config()).held_out()["mse"]
    assert train(Toy(config()), tmp_path)["mse"] < 0.3 * before


def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path):
    train(Toy(config()), tmp_path / "whole")
    train(Toy(config()), tmp_path / "parts", stop_after=23)
    train(Toy(config()), tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path):
    train(Toy(config()), tmp_path / "whole")
    done = python(f"import runpy; runpy.run_path({str(HERE)!r}, run_name='__main__')", tmp_path / "killed")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert latest(tmp_path / "killed").name == "checkpoint-00000020"
    train(Toy(config()), tmp_path / "killed")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.parametrize(
    ("number", "raised", "words"),
    [
        (signal.SIGTERM, DuoTokError, r"told to end \(SIGTERM\), saved at step 13; the same command"),
        (signal.SIGINT, KeyboardInterrupt, r"told: interrupted, saved at step 13; the same command"),
    ],
)
def test_told_to_end_it_saves_and_goes_on_as_uninterrupted(
    tmp_path: Path, number: signal.Signals, raised: type[BaseException], words: str, interruptible: None
):
    """One process need not wait for the next look at the loss, on which several agree."""
    train(Toy(config()), tmp_path / "whole")
    before = signal.getsignal(number)
    values = config(check_every=5, log_every=100)
    with pytest.raises(raised, match=words):
        train(Toy(values, killed_at=12, number=number), tmp_path / "told")
    assert latest(tmp_path / "told").name == "checkpoint-00000013"
    assert signal.getsignal(number) == before
    train(Toy(values), tmp_path / "told")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "told"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a suite that runs in the background hands down that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_every_sigterm_is_only_noted():
    with Leaving() as leaving:
        assert not leaving.asked
        for _ in range(2):  # SLURM sends one, torchrun another
            os.kill(os.getpid(), signal.SIGTERM)
            assert leaving.asked


def test_the_second_ctrl_c_stops_at_once(
    interruptible: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    now = 100.0
    monkeypatch.setattr("duotok.training.leaving.time.monotonic", lambda: now)
    with Leaving() as leaving, leaving.after_a_step():
        for _ in range(2):  # of the terminal and of a launcher
            os.kill(os.getpid(), signal.SIGINT)
        assert leaving.asked and capfd.readouterr().err.count("press it again to stop at once") == 1
        now = 102.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_where_there_is_no_step_to_lose_stops_at_once(interruptible: None):
    with Leaving(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_where_ctrl_c_is_ignored_it_stays_so(interruptible: None):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Leaving() as leaving, leaving.after_a_step():
        os.kill(os.getpid(), signal.SIGINT)
        assert not leaving.asked


def test_loader_workers_let_the_trainer_end_well(interruptible: None):
    def signalled(worker: int) -> None:
        deaf(worker)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    loader = DataLoader(
        [1, 2, 3], batch_size=None, num_workers=1, worker_init_fn=signalled, multiprocessing_context="fork"
    )
    assert list(loader) == [1, 2, 3]


def test_a_half_written_checkpoint_is_not_used(tmp_path: Path):
    train(Toy(config()), tmp_path, stop_after=20)
    (tmp_path / "checkpoint-00000030").mkdir()
    assert latest(tmp_path).name == "checkpoint-00000020"


def test_what_a_kill_left_of_a_checkpoint_takes_no_room_for_ever(tmp_path: Path):
    """A run by time has other steps after it, so that no later checkpoint has the name of that one."""
    train(Toy(config()), tmp_path, stop_after=20)
    partial = tmp_path / ".partial-00000017"
    partial.mkdir()
    (partial / "net.safetensors").write_bytes(b"half")
    train(Toy(config()), tmp_path, stop_after=30)
    assert not partial.exists() and latest(tmp_path).name == "checkpoint-00000030"


def test_a_checkpoint_that_may_not_be_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else the run would go on from an older one. Root may read anything, so the system's answer is played."""
    train(Toy(config()), tmp_path, stop_after=10)
    train(Toy(config()), tmp_path, stop_after=20)
    newest, before, read_text = latest(tmp_path), sorted(tmp_path.iterdir()), Path.read_text

    def refused(path: Path, *words: object, **named: object) -> str:
        if path == newest / "state.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *words, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refused)
        with pytest.raises(
            ConfigError, match=r"state\.json: cannot be read .Permission denied.; check its permissions$"
        ):
            train(Toy(config()), tmp_path, stop_after=30)
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path):
    train(Toy(config()), tmp_path, stop_after=10)
    state = latest(tmp_path) / "state.json"
    values = {name: value for name, value in json.loads(state.read_text()).items() if name != "seal"}
    state.write_text(json.dumps(seal({**values, "stage": "other"})))
    with pytest.raises(ConfigError, match="of other, not of toy"):
        train(Toy(config()), tmp_path)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path):
    train(Toy(config()), tmp_path, stop_after=10)
    state = latest(tmp_path) / "state.json"
    values = {name: value for name, value in json.loads(state.read_text()).items() if name != "seal"}
    state.write_text(json.dumps(seal({**values, "format": 99})))
    with pytest.raises(DuoTokError, match="a checkpoint of format 99, this DuoTok reads"):
        train(Toy(config()), tmp_path)


def test_other_settings_are_told_when_a_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    train(Toy(config()), tmp_path, stop_after=10)
    train(Toy(config()), tmp_path, stop_after=20)
    assert "other settings" not in caplog.text
    train(Toy(config(lr=0.5, betas=(0.5, 0.9))), tmp_path, stop_after=30)
    assert "goes on with other settings: betas: " in caplog.text and "lr: " in caplog.text and "-> 0.5" in caplog.text


def test_weights_of_another_architecture_are_refused(tmp_path: Path):
    train(Toy(config()), tmp_path, stop_after=10)
    with pytest.raises(
        ConfigError, match=r"another architecture .*give the sizes of .*config\.json \(--set model\.KEY=VALUE\)"
    ):
        load_module(latest(tmp_path) / "net.safetensors", nn.Linear(3, 3))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path):
    class Exploding(Toy):
        def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
            result = super().losses(batch, step)
            return {"loss": result["loss"] * (float("nan") if step == 15 else 1.0)}

    with pytest.raises(DuoTokError, match="step 15"):
        train(Exploding(config()), tmp_path)
    assert latest(tmp_path).name == "checkpoint-00000010"
    told = json.loads((tmp_path / "stopped-00000015.json").read_text())
    assert told["ids"] == [[f"15.{item}" for item in range(16)]]
    assert told["losses"]["loss"] == "nan"


def test_a_full_disk_does_not_hide_why_a_run_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, data: object, encoding: str = "") -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("pathlib.Path.write_text", full)
    told = "stopped at step 15: the loss is nan; .*; stopped-00000015.json .*not written .No space left on device., the last"
    norms = {"net.0": 1.0}
    assert re.search(told, str(stop(tmp_path, 15, "the loss is nan", 1e-3, {"loss": math.nan}, norms, [])))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["loss", "gradient of a group with a limit of its own"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, what: str):
    """With check_every the loss is looked at now and then; a step that is saved is one of them."""

    class Exploding(Toy):
        def parameter_groups(self):
            last = [*self.net[3].parameters()]
            return [{"params": [*self.net[0].parameters()]}, {"params": last, "clip": 1.0}]

        def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
            loss = super().losses(batch, step)["loss"]
            if what == "loss":
                return {"loss": loss * (float("nan") if step == 12 else 1.0)}
            if step == 19:
                self.net[3].bias.register_hook(lambda gradient: gradient * float("nan"))
            return {"loss": loss}

    settings = {"check_every": 1000, "log_every": 1000}
    with pytest.raises(DuoTokError, match="step 19"):
        train(Exploding(config(**settings)), tmp_path)
    assert latest(tmp_path).name == "checkpoint-00000010"
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path).values())
    train(Toy(config(**settings)), tmp_path)
    assert latest(tmp_path).name == "checkpoint-00000060"


COMPILED = f"""
import sys; sys.path.insert(0, {str(HERE.parents[2])!r})
from pathlib import Path
from duotok.errors import ConfigError
from duotok.training.engine import train
from tests.training.test_engine import Toy, config
try:
    train(Toy(config(compile=True, steps=2)), Path(sys.argv[1]))
except ConfigError as error:
    print(error)
"""


def test_a_model_that_cannot_be_compiled_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("CXX", "CC"):
        monkeypatch.setenv(name, "/nonexist")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    done = python(COMPILED, tmp_path / "run")
    assert b"cannot compile toy here (InvalidCxxCompiler: " in done.stdout, done.stderr.decode()
    assert done.stdout.endswith(b"); --set compile=false\n")


def test_an_exploding_loss_stops(tmp_path: Path):
    class Growing(Toy):
        def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
            result = super().losses(batch, step)
            return {"loss": result["loss"] * (1000.0 if step >= 55 else 1.0)}

    with pytest.raises(DuoTokError, match="usually"):
        train(Growing(config(steps=80, lr=1e-4)), tmp_path)
    assert latest(tmp_path).name == "checkpoint-00000050"


def test_the_newest_and_the_best_checkpoints_stay(tmp_path: Path):
    class Worsening(Toy):
        def held_out(self) -> dict[str, float]:
            self.asked = getattr(self, "asked", 0) + 1
            return {"loss": abs(self.asked - 2.0)}

    train(Worsening(config(held_out_every=10, keep=2)), tmp_path)
    assert [p.name[-2:] for p in checkpoints(tmp_path)] == ["20", "50", "60"]
    assert best(tmp_path).name == "checkpoint-00000020"
    train(Worsening(config(held_out_every=10, keep=2, best=None)), tmp_path / "newest")
    assert best(tmp_path / "newest").name == "checkpoint-00000060"


def test_a_best_of_another_figure_does_not_count(tmp_path: Path):
    class Two(Toy):
        def held_out(self) -> dict[str, float]:
            return {"small": 0.5, "large": 7.0}

    train(Two(config(held_out_every=10, best="small")), tmp_path, stop_after=30)
    assert best_so_far(tmp_path)["figure"] == "small"
    train(Two(config(held_out_every=10, best="large")), tmp_path)
    assert best_so_far(tmp_path) == {"step": 40, "figure": "large", "value": 7.0}


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train(Toy(config()), tmp_path, stop_after=20)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("duotok.training.saving.save_file", full)
    with pytest.raises(DuoTokError, match=r"No space left.*kept"):
        train(Toy(config()), tmp_path)
    assert latest(tmp_path).name == "checkpoint-00000020"
    assert not list(tmp_path.glob(".partial*"))


def test_the_best_checkpoint_stays_the_best_when_a_better_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = config(held_out_every=20, best="mse", save_every=1000)
    train(Toy(settings), tmp_path, stop_after=20)
    before = best_so_far(tmp_path)
    assert before["step"] == 20

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as disk,
        pytest.raises(DuoTokError, match=r"00000040: checkpoint not written \(No space left"),
    ):
        disk.setattr("duotok.training.saving.save_file", full)
        train(Toy(settings), tmp_path)
    assert best_so_far(tmp_path) == before and best(tmp_path).name == "checkpoint-00000020"
    train(Toy(settings), tmp_path)
    assert best_so_far(tmp_path)["step"] > 20


def test_a_damaged_checkpoint_is_told(tmp_path: Path):
    train(Toy(config()), tmp_path, stop_after=10)
    path = latest(tmp_path) / "net.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DuoTokError, match="damaged"):
        train(Toy(config()), tmp_path)


def test_a_batch_that_processes_cannot_share_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="multiple of 3"):
        train(Toy(config(accumulate=3)), tmp_path)


def test_generators_of_every_kind_are_restored(tmp_path: Path):
    draw = lambda: (random.random(), float(np.random.rand()), float(torch.rand(())))  # noqa: E731, NPY002
    tensors, texts = generator_state()
    save_file(tensors, tmp_path / "random.safetensors", texts)
    drawn = draw()
    restore_generators(tmp_path / "random.safetensors")
    assert draw() == drawn


def test_figures_are_logged_for_programs_and_for_tensorboard(tmp_path: Path):
    train(Toy(config(log_every=5)), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == list(range(5, 61, 5))
    assert {"loss", "lr", "rate", "waiting", "gradient", "gradient.net.0"} <= steps[0].keys()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path):
    with only_one(tmp_path), pytest.raises(DuoTokError, match="another process"):
        train(Toy(config()), tmp_path)
    assert train(Toy(config()), tmp_path, stop_after=10)


def test_learning_rate_warms_up_and_falls_to_the_floor():
    rates = [learning_rate(s, peak=1.0, warmup=10, steps=100, floor=0.1) for s in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Toy(config(), killed_at=25), Path(sys.argv[1]))


def test_the_device_of_an_earlier_run_of_the_process_is_forgotten():
    from accelerate.state import PartialState

    join(StageConfig(steps=1, batch_size=1, lr=1.0, device="cpu"))
    PartialState._shared_state["device"] = torch.device("meta")
    assert join(StageConfig(steps=1, batch_size=1, lr=1.0, device="cpu")).device.type == "cpu"


def test_sample_every_nought_takes_no_samples(tmp_path: Path):
    for every, taken in ((0, False), (1000, True)):
        stage = Toy(config(sample_every=every))
        stage.sample = lambda folder: (folder / "taken").write_text("")  # type: ignore[method-assign]
        train(stage, tmp_path / str(every))
        assert any((tmp_path / str(every)).glob("samples/*/taken")) is taken


def test_settings_are_checked_before_processes_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends with its error while another still waits for it gives that one an error of the network."""

    class Picky(Toy):
        def check(self, processes: int) -> None:
            raise ConfigError(f"not with {processes} processes")

    def exchanged(*_: object) -> None:
        raise AssertionError("weights were exchanged")

    monkeypatch.setattr("duotok.training.engine.Run._prepare", exchanged)
    with pytest.raises(ConfigError, match="not with 1 processes"):
        train(Picky(config()), tmp_path / "picky")
    with pytest.raises(ConfigError, match="cannot be shared by 1 processes x accumulate 3"):
        train(Toy(config(batch_size=16, accumulate=3)), tmp_path / "uneven")


def test_fp16_is_refused_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one with fast bf16 accelerate trained in fp32 without a word, and nothing looked at the gradients."""
    monkeypatch.setattr("duotok.training.processes.fast_half", lambda: True)
    with pytest.raises(ConfigError, match="precision: fp16 needs a GPU"):
        train(Toy(config(precision="fp16", device="cpu", steps=2)), tmp_path)
    assert not checkpoints(tmp_path)
    train(Toy(config(precision="bf16", device="cpu", steps=2, best=None)), tmp_path)
    assert checkpoints(tmp_path)


def test_norms_of_parts_are_those_of_the_gradients_whatever_the_scaler_made_them(tmp_path: Path) -> None:
    stage = Toy(config(precision="fp32"))
    run = Run(stage, tmp_path, join(stage.config), None, Leaving())
    for parameter in stage.net.parameters():
        parameter.grad = torch.ones_like(parameter)
    plain = run._norms()
    assert plain["gradient.net.0"] == pytest.approx((8 * 16 + 16) ** 0.5)
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run.accelerator.scaler.scale(torch.zeros(()))  # its scale begins to be there
    for parameter in stage.net.parameters():
        parameter.grad = torch.full_like(parameter, 1024.0)
    assert run._norms() == pytest.approx(plain)


@pytest.mark.parametrize(
    ("songs", "told", "kept"),
    [
        ({"train": "a", "validation": "b"}, "", True),
        ({"train": "a", "validation": "b", "test": "new"}, "", True),
        ({"train": "more", "validation": "b"}, "goes on with other songs than before: train\n", True),
        ({"train": "more", "validation": "others"}, "goes on with other songs than before: train, validation\n", False),
    ],
)
def test_a_run_that_goes_on_with_other_songs_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, songs: dict[str, str], told: str, kept: bool
) -> None:
    """Its best checkpoint was judged by songs that may be gone."""
    wanted = config(best="mse", held_out_every=10)
    stage = Toy(wanted)
    stage.songs_hashes = {"train": "a", "validation": "b", "test": "old"}
    train(stage, tmp_path, stop_after=20)
    run = Run(Toy(wanted), tmp_path, join(wanted), None, Leaving())
    assert run.best and not caplog.text, "what is not known is no change"
    other = Toy(wanted)
    other.songs_hashes = songs
    run = Run(other, tmp_path, join(other.config), None, Leaving())
    assert bool(run.best) == kept and (told in caplog.text if told else not caplog.text)


def test_a_run_that_is_over_keeps_its_best_checkpoint_whatever_songs_there_are_now(tmp_path: Path) -> None:
    """Later stages would take the newest one, which nobody has looked at again."""
    wanted = config(best="mse", held_out_every=10)
    stage = Toy(wanted)
    stage.songs_hashes = {"validation": "a"}
    train(stage, tmp_path)
    before = best_so_far(tmp_path)
    other = Toy(wanted)
    other.songs_hashes = {"validation": "b"}
    train(other, tmp_path)
    assert before and best_so_far(tmp_path) == before


def test_processes_that_opened_other_songs_do_not_train_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store to which `duotok tokenize` adds may grow after the first process has opened it."""
    monkeypatch.setattr("duotok.training.engine.of_first", lambda value: value + 1)
    with pytest.raises(ConfigError, match="its songs changed while the processes opened them; start it again"):
        train(Toy(config()), tmp_path)


@pytest.mark.parametrize(
    ("main", "sharding", "kept", "times"), [(True, "fsdp", 1, 1), (False, "fsdp", 0, 1), (False, "none", 0, 0)]
)
def test_one_process_keeps_samples(tmp_path: Path, main: bool, sharding: str, kept: int, times: int) -> None:
    """With sharded weights all must take part; what one was writing another had read, and ended with a broken picture."""
    folders: list[Path] = []

    class Painter(Toy):
        def sample(self, folder: Path) -> None:
            folders.append(folder)
            (folder / "picture.txt").write_text("painted")

    stage = Painter(config(sharding=sharding))
    run = Run(stage, tmp_path, join(stage.config), None, Leaving())
    run.main, run.log = main, None
    run._sample(3)
    assert len(folders) == times and len(list(tmp_path.rglob("picture.txt"))) == kept
    assert main or not any(folder.exists() for folder in folders)
