"""The tokenizer's contract: shapes, padding, routing, freezing, config and state round trips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duotok.config import parse
from duotok.errors import ConfigError
from duotok.model import Tokenizer, TokenizerConfig, stage2_loss, stage3_loss
from duotok.tracks import TRACKS

Build = Callable[..., Tokenizer]
LENGTHS = (1, 2, 3, 5, 8, 13, 20)


def digest(*modules: nn.Module) -> str:
    """Hash of every parameter and buffer."""
    total = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def test_shapes(build: Build) -> None:
    tokenizer = build().eval()
    mel = torch.randn(2, 28, 16)
    hidden = tokenizer.lower(mel)
    assert hidden.shape == (2, 7, 32)
    quantized = tokenizer.quantize(hidden, "vocals")
    assert quantized.codes.shape == (2, 7) and quantized.codes.dtype == torch.int64
    assert quantized.embedding.shape == quantized.z.shape == quantized.z_q.shape == (2, 7, 4)
    codes = tokenizer.encode(mel, "accompaniment")
    assert tokenizer.code_vectors(codes, "accompaniment").shape == (2, 7, 4)
    assert tokenizer.embeddings(codes, "accompaniment").shape == (2, 7, 32)
    heads = tokenizer.heads(tokenizer.upper(tokenizer.embeddings(codes, "accompaniment")))
    assert heads["mel"].shape == (2, 28, 16) and heads["chroma"].shape == (2, 28, 12)
    assert heads["masks"].shape == (2, 28, 4, 16) and heads["text"].shape == (2, 7, 9)
    assert float(heads["masks"].min()) >= 0 and float(heads["masks"].max()) <= 1
    assert tokenizer.blank == 8


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"downsampling": "conv2d", "activation": "swiglu"},
        {"downsampling": "pyramid"},
        {"downsampling": "separable", "mask_bins": 15, "mask_bands": (7, 1, 7)},
    ],
)
def test_padded_batch_equals_single(build: Build, overrides: dict[str, object]) -> None:
    """Token for token and value for value, whatever stands beside an item or behind it."""
    tokenizer = build(codebook_size=512, **overrides).eval()
    lengths = torch.tensor(LENGTHS)
    mel = torch.randn(len(LENGTHS), 4 * max(LENGTHS), 16)
    for item, n in enumerate(LENGTHS):
        mel[item, 4 * n :] = 1e3  # what stands in the padding must not matter
    track = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    with torch.no_grad():
        hidden = tokenizer.lower(mel, lengths)
        codes = tokenizer.encode(mel, track, lengths)
        pre, _, codes3 = tokenizer.stage3(hidden, track, lengths)
        free = tokenizer.stage1(mel, lengths)
        heads = tokenizer.stage2(mel, lengths)
        for item, n in enumerate(LENGTHS):
            name = TRACKS[int(track[item])]
            alone = mel[item : item + 1, : 4 * n]
            assert torch.equal(codes[item, :n], tokenizer.encode(alone, name)[0])
            assert bool((codes[item, n:] == -1).all()) and bool((hidden[item, n:] == 0).all())
            lone = tokenizer.lower(alone)
            torch.testing.assert_close(hidden[item, :n], lone[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(free[item, :n], tokenizer.stage1(alone)[0], atol=1e-5, rtol=1e-5)
            lone3, _, lone_codes = tokenizer.stage3(lone, name)
            assert torch.equal(codes3[item, :n], lone_codes[0])
            for got, want in ((pre, lone3), (heads, tokenizer.stage2(alone))):
                for key, value in want.items():
                    k = n if key in ("text", "z") else 4 * n
                    torch.testing.assert_close(got[key][item, :k], value[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                tokenizer.embeddings(codes[item : item + 1, :n], name),
                tokenizer.project_out(tokenizer.quantize(lone, name).embedding, name),
                atol=1e-5,
                rtol=1e-5,
            )


def test_eval_is_deterministic_and_batch_order_does_not_matter(build: Build) -> None:
    tokenizer = build(dropout=0.3).eval()
    mel, track = torch.randn(5, 24, 16), torch.tensor([0, 1, 0, 1, 1])
    first = tokenizer.encode(mel, track)
    assert torch.equal(first, tokenizer.encode(mel, track))
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(first[order], tokenizer.encode(mel[order], track[order]))
    torch.testing.assert_close(tokenizer.stage2(mel)["mel"], tokenizer.stage2(mel)["mel"], rtol=0, atol=0)


def test_a_mixed_batch_routes_each_item_to_its_own_branch(build: Build) -> None:
    tokenizer = build().eval()
    hidden, track = torch.randn(4, 6, 32), torch.tensor([1, 0, 1, 0])
    mixed = tokenizer.quantize(hidden, track)
    for index, name in enumerate(TRACKS):
        own = tokenizer.quantize(hidden[track == index], name)
        assert torch.equal(mixed.codes[track == index], own.codes)
        torch.testing.assert_close(mixed.z_q[track == index], own.z_q)
    assert not torch.equal(
        tokenizer.quantize(hidden, "vocals").codes, tokenizer.quantize(hidden, "accompaniment").codes
    )
    shared = build(shared_codebook=True)
    assert len(shared.branches) == 1
    assert torch.equal(shared.quantize(hidden, track).codes, shared.quantize(hidden, "accompaniment").codes)


@pytest.mark.parametrize("quantizer", ["simvq", "vq"])
@pytest.mark.parametrize("index", [0, 1])
def test_no_gradient_crosses_tracks(
    build: Build, index: int, quantizer: str, targets: Callable[..., dict[str, Tensor]]
) -> None:
    """A batch of one track, and one track's items in a mixed batch, leave the other's branch without gradient."""
    tokenizer = build(quantizer=quantizer)
    tokenizer.start_stage3()
    hidden = torch.randn(4, 6, 32)
    own, other = tokenizer.branches[index], tokenizer.branches[1 - index]
    batch = targets(4, 6)
    heads, vq, _ = tokenizer.stage3(hidden, TRACKS[index])
    stage3_loss(heads, vq, batch)["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in other.parameters())
    assert all(p.grad is not None and p.grad.any() for p in own.parameters())
    # In a mixed batch each branch's gradient depends on its own items only.
    tokenizer.zero_grad()
    track = torch.tensor([0, 1, 1, 0])
    quantized = tokenizer.quantize(hidden, track)
    out = tokenizer.project_out(quantized.embedding, track)
    weight = (track == index).float()[:, None, None]
    ((out * weight).square().sum() + ((quantized.z_q - quantized.z) * weight).square().sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in other.parameters())
    assert all(p.grad is not None and p.grad.any() for p in own.parameters())


def test_stage3_leaves_the_lower_part_untouched(build: Build, targets: Callable[..., dict[str, Tensor]]) -> None:
    tokenizer = build(dropout=0.2).train()
    tokenizer.start_stage3()
    frozen = (tokenizer.downsampling, tokenizer.lower_blocks)
    before = digest(*frozen)
    bases = [branch.quantizer.basis.clone() for branch in tokenizer.branches]
    trained = {name: p.clone() for name, p in tokenizer.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=1e-2, weight_decay=0.1)
    mel, track, batch = torch.randn(4, 24, 16), torch.tensor([0, 1, 0, 1]), targets(4, 6)
    hidden = tokenizer.lower(mel)
    assert not hidden.requires_grad
    assert torch.equal(hidden, tokenizer.lower(mel)), "no dropout in the frozen part"
    for _ in range(3):
        heads, vq, _ = tokenizer.stage3(hidden, track)
        assert "masks" not in heads
        optimizer.zero_grad()
        stage3_loss(heads, vq, batch)["loss"].backward()
        optimizer.step()
    assert digest(*frozen) == before
    for branch, basis in zip(tokenizer.branches, bases, strict=True):
        assert torch.equal(branch.quantizer.basis, basis)
    still = [n for n, p in tokenizer.named_parameters() if n in trained and torch.equal(p, trained[n])]
    # Only the mask head, which stage 3 does not use, stands still (its parameters get no gradient).
    assert all("mask" in name for name in still), still
    assert torch.equal(hidden, tokenizer.lower(mel))


def test_start_stage3_duplicates_the_projections(build: Build) -> None:
    tokenizer = build()
    tokenizer.start_stage3()
    for branch in tokenizer.branches:
        assert digest(branch.projection_in) == digest(tokenizer.projection_in)
        assert digest(branch.projection_out) == digest(tokenizer.projection_out)
        assert branch.projection_in.linear.weight.data_ptr() != tokenizer.projection_in.linear.weight.data_ptr()
    assert not torch.equal(tokenizer.branches[0].quantizer.basis, tokenizer.branches[1].quantizer.basis)


def test_state_dict_round_trip(build: Build, tmp_path: Path) -> None:
    tokenizer = build().eval()
    tokenizer.fit_quantizer(torch.randn(8, 20, 32), "vocals")
    save_file(tokenizer.state_dict(), tmp_path / "t.safetensors")
    other = build(basis_seed=9).eval()
    mel = torch.randn(3, 24, 16)
    other.encode(mel, "vocals")  # fills the cache that loading must drop
    other.load_state_dict(load_file(tmp_path / "t.safetensors"))
    assert torch.equal(tokenizer.encode(mel, "vocals"), other.encode(mel, "vocals"))
    basis = tokenizer.state_dict()["branches.0.quantizer.basis"]
    assert torch.equal(basis, basis.half().float()), "half precision must hold the basis exactly"


def test_config_round_trip_and_errors() -> None:
    for name in ("mini", "paper", "tiny"):
        config = TokenizerConfig.preset(name)
        assert parse(TokenizerConfig, config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="did you mean 'codebook_size'"):
        parse(TokenizerConfig, {"codebok_size": 3})
    with pytest.raises(ConfigError, match="mask_bands sum to 128"):
        parse(TokenizerConfig, {"mask_bins": 100})
    with pytest.raises(ConfigError, match="mini, paper, tiny"):
        TokenizerConfig.preset("huge")
    with pytest.raises(ConfigError, match="width"):
        parse(TokenizerConfig, {"width": 100, "heads": 3})


def test_wrong_calls_are_named(build: Build) -> None:
    tokenizer = build().eval()
    with pytest.raises(ValueError, match=r"\[batch, 4 \* frames, 16\]"):
        tokenizer.lower(torch.randn(1, 7, 16))
    with pytest.raises(ValueError, match=r"1\.\.2"):
        tokenizer.lower(torch.randn(2, 8, 16), torch.tensor([2, 0]))
    with pytest.raises(ValueError, match="vocals and accompaniment"):
        tokenizer.quantize(torch.randn(1, 2, 32), "drums")
    with pytest.raises(ValueError, match="0 is vocals"):
        tokenizer.quantize(torch.randn(1, 2, 32), torch.tensor([2]))
    with pytest.raises(ValueError, match="outside the codebook of 64"):
        tokenizer.embeddings(torch.tensor([[64]]), "vocals")


@pytest.mark.parametrize("off", ["mel", "chroma", "mask", "text"])
def test_every_head_can_be_switched_off(build: Build, off: str, targets: Callable[..., dict[str, Tensor]]) -> None:
    tokenizer, want = build(**{f"{off}_head": False}), targets(2, 4)
    gone = {"mask": "masks"}.get(off, off)
    heads = tokenizer.stage2(want["mel"])
    assert set(heads) == {"mel", "chroma", "masks", "text", "z"} - {gone}
    assert set(stage2_loss(heads, want)) == {"loss", "mel", "chroma", "masks", "text"} - {gone}
    assert not any(name.startswith(f"output.{off}") for name in tokenizer.state_dict())
    tokenizer.start_stage3()
    heads, vq, _ = tokenizer.stage3(tokenizer.lower(want["mel"]), torch.tensor([0, 1]))
    parts = set(stage3_loss(heads, vq, want))
    assert parts == {"loss", "vq", "codebook", "commitment", "mel", "chroma", "text"} - {gone}


def test_without_any_head_stage3_has_its_codes_alone(build: Build) -> None:
    tokenizer = build(mel_head=False, chroma_head=False, mask_head=False, text_head=False)
    heads, vq, _ = tokenizer.stage3(torch.randn(2, 4, 32), "vocals")
    assert heads == {} and set(stage3_loss(heads, vq, {})) == {"loss", "vq", "codebook", "commitment"}


def test_train_only_asks_for_what_the_loss_reaches(build: Build, targets: Callable[..., dict[str, Tensor]]) -> None:
    """No parameter that asks for a gradient stays without one: DDP would wait for it."""
    want = targets(2, 6)

    def losses(tokenizer: Tokenizer, stage: int) -> Tensor:
        if stage == 1:
            return tokenizer.stage1(want["mel"]).sum()
        if stage == 2:
            return stage2_loss(tokenizer.stage2(want["mel"]), want)["loss"]
        # All items of one track: the other's branch takes part all the same.
        heads, vq, _ = tokenizer.stage3(tokenizer.lower(want["mel"]), torch.tensor([1, 1]))
        return stage3_loss(heads, vq, want)["loss"]

    for stage, freeze in ((1, True), (2, True), (3, True), (3, False)):
        tokenizer = build(dropout=0.1).train()
        tokenizer.train_only(stage, freeze)  # type: ignore[arg-type]
        losses(tokenizer, stage).backward()
        for name, parameter in tokenizer.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, (stage, name)
        learns = any(p.requires_grad for p in tokenizer.lower_blocks.parameters())
        assert learns == tokenizer.lower_blocks.training == (stage < 3 or not freeze)


def test_without_freezing_the_lower_half_learns_on(build: Build, targets: Callable[..., dict[str, Tensor]]) -> None:
    tokenizer, want = build(), targets(2, 6)
    tokenizer.start_stage3(freeze=False)
    heads, vq, _ = tokenizer.stage3(tokenizer.lower(want["mel"]), torch.tensor([0, 1]))
    stage3_loss(heads, vq, want)["loss"].backward()
    for part in (tokenizer.downsampling, tokenizer.lower_blocks):
        assert all(p.grad is not None and bool(p.grad.any()) for p in part.parameters())


def test_soft_routing_mixes_both_branches(build: Build) -> None:
    """With a router that is sure of itself it is hard routing; in between, outputs and losses are weighted means."""
    tokenizer = build(routing="soft").eval()
    hidden, lengths, track = torch.randn(3, 6, 32), torch.tensor([6, 2, 4]), torch.tensor([0, 1, 1])
    assert tokenizer.router is not None
    hard = build().eval()
    hard.load_state_dict(tokenizer.state_dict(), strict=False)
    with torch.no_grad():
        for index, name in enumerate(TRACKS):
            tokenizer.router.linear.weight.zero_()
            tokenizer.router.linear.bias.copy_(torch.eye(2)[index] * 60)
            heads, losses, codes = tokenizer.stage3(hidden, track, lengths)
            want, want_losses, want_codes = hard.stage3(hidden, name, lengths)
            assert torch.equal(codes, want_codes)
            torch.testing.assert_close(heads["mel"], want["mel"])
            torch.testing.assert_close(losses["vq"], want_losses["vq"])
            own = torch.tensor([6.0, 2.0, 4.0])[track == index].sum() / 12
            assert float(losses["routing"]) == pytest.approx(float(own))
        tokenizer.router.linear.bias.copy_(torch.tensor([0.0, 1.0]))
        weight = torch.softmax(tokenizer.router.linear.bias, 0)
        _, losses, codes = tokenizer.stage3(hidden, track, lengths)
        named, told = (
            tokenizer.stage3(hidden, t, lengths)[1] for t in ("accompaniment", torch.ones(3, dtype=torch.int64))
        )
        assert named["routing"] == told["routing"] == pytest.approx(float(weight[1]))
        each = [hard.stage3(hidden, name, lengths)[1]["vq"] for name in TRACKS]
        torch.testing.assert_close(losses["vq"], weight[0] * each[0] + weight[1] * each[1])
        assert torch.equal(codes, hard.stage3(hidden, "accompaniment", lengths)[2])


def test_soft_routing_learns_from_the_heads_alone(build: Build, targets: Callable[..., dict[str, Tensor]]) -> None:
    tokenizer, want = build(routing="soft"), targets(2, 6)
    tokenizer.start_stage3()
    assert tokenizer.router is not None
    heads, vq, _ = tokenizer.stage3(tokenizer.lower(want["mel"]), torch.tensor([0, 1]))
    vq["vq"].backward(retain_graph=True)
    assert tokenizer.router.linear.weight.grad is None
    stage3_loss(heads, vq, want)["loss"].backward()
    assert tokenizer.router.linear.weight.grad is not None and bool(tokenizer.router.linear.weight.grad.any())
    with pytest.raises(ConfigError, match="soft routing mixes two branches"):
        parse(TokenizerConfig, {"routing": "soft", "shared_codebook": True})


def test_condition_is_code_or_proj_out(build: Build) -> None:
    tokenizer, codes = build().eval(), torch.tensor([[3, 5, 60]])
    assert torch.equal(tokenizer.condition(codes, "vocals"), tokenizer.code_vectors(codes, "vocals"))
    assert torch.equal(tokenizer.condition(codes, "vocals", "proj_out"), tokenizer.embeddings(codes, "vocals"))


def test_mini_fits_its_budget() -> None:
    tokenizer = Tokenizer(TokenizerConfig())
    assert sum(p.numel() for p in tokenizer.parameters()) <= 4_200_000


def test_paper_preset_counts_parameters() -> None:
    """24 blocks of 1024 / 16 / 4096: about 302 M (docs/parameters.md, tokenizer)."""
    with torch.device("meta"):
        tokenizer = Tokenizer(TokenizerConfig.preset("paper"))
    blocks = [*tokenizer.lower_blocks.parameters(), *tokenizer.upper_blocks.parameters()]
    assert all(p.is_meta for p in blocks)
    assert abs(sum(p.numel() for p in blocks) / 1e6 - 302) < 1
    assert tokenizer.branches[0].quantizer.basis.shape == (32768, 16)


def test_half_precision_leaves_the_last_projection_and_the_search_in_float32() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig.preset("tiny")).eval()
    mel = torch.randn(2, 80, 16)
    seen: list[Tensor] = []
    hook = tokenizer.lower_blocks.register_forward_hook(lambda module, given, made: seen.append(made))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        codes = tokenizer.encode(mel, "vocals")
    hook.remove()
    hidden = seen[0]
    assert hidden.dtype is torch.float32  # the sum over blocks is never rounded
    assert not torch.equal(hidden, hidden.bfloat16().float())
    with torch.no_grad():
        assert torch.equal(codes, tokenizer.quantize(hidden, "vocals").codes)
        half = tokenizer.lower_blocks.blocks[0].attention.qkv
        with torch.autocast("cpu", torch.bfloat16):
            assert half(hidden).dtype is torch.bfloat16
            assert tokenizer.branch("vocals").projection_in(hidden).dtype is torch.float32


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_encoding_asks_for_true_float32_where_less_is_allowed(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from duotok.nn.precision import full_precision

    asked: list[str] = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    with full_precision(torch.device(device)):
        assert asked == ["highest"]
    assert asked == ["highest", "high"]
