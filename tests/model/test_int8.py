"""Linear layers in 8 bits: near the true ones, row by row; what is not quantized stays as it is."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from duotok.errors import ConfigError
from duotok.model import Tokenizer, TokenizerConfig, int8
from duotok.model.int8 import EXACT, LEVELS, ROWS, X86, Int8Linear, check_int8, int8_encoder

on_x86 = pytest.mark.skipif(platform.machine().lower() not in X86, reason="kernels of x86")


@pytest.mark.parametrize("bias", [True, False])
def test_near_the_true_layer_and_every_row_by_itself(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 64, bias=bias)
    quick = Int8Linear(linear)
    x = torch.randn(3, 50, 96) * torch.logspace(-3, 3, 50)[:, None]  # rows of very different size
    with torch.no_grad():
        true, found = linear(x), quick(x)
        assert found.shape == true.shape and found.dtype is torch.float32
        own = linear.bias.detach() if bias else torch.zeros(64)
        error = (found - true).norm(dim=-1) / (true - own).norm(dim=-1)
        assert 1e-3 < float(error.mean()) < 0.006  # that of the weights; with one digit the inputs' would be 0.009
        assert float(error.max()) < 0.02  # no row by the scale of another
        assert torch.equal(quick(x[1:2, 7:9]), found[1:2, 7:9])
        torch.testing.assert_close(quick(torch.zeros(2, 96)), own.expand(2, 64))


@pytest.mark.parametrize("shape", [(96, 64), (1024, 40), (7, 5)])
def test_to_the_bit_what_whole_numbers_give_alone_and_among_others(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(*shape)
    with torch.no_grad():
        linear.weight[0] = linear.weight[0].abs().amax()  # the largest sums there can be
    quick = Int8Linear(linear)
    assert 255 * LEVELS * quick.width <= EXACT, "kernels for AMX round larger sums"  # also where this CPU has none
    x = torch.randn(ROWS + 3, shape[0])
    x[0], x[1] = 1.0, -1.0
    weight = (linear.weight.detach() / quick.scales[:, None]).round().long()
    largest = x.abs().amax(1, keepdim=True)
    scaled = x * (LEVELS / largest)
    first, second = scaled.trunc(), scaled.frac().mul(LEVELS).trunc()
    product = [(digit.long() @ weight.T).float() * quick.scales for digit in (first, second)]
    true = torch.addcmul(linear.bias.detach(), product[0].add(product[1], alpha=1 / LEVELS), largest / LEVELS)
    found = quick(x)
    assert torch.equal(found, true)
    assert all(torch.equal(quick(x[i : i + n]), true[i : i + n]) for i, n in ((0, 1), (5, 2), (ROWS - 1, 4)))


@on_x86
def test_no_kernel_without_byte_products_is_used(capfd: pytest.CaptureFixture[str]) -> None:
    """oneDNN's reference kernel is a thousand times slower."""
    quick = Int8Linear(nn.Linear(96, 64))
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        quick(torch.randn(8, 96))
    lines = [line for line in capfd.readouterr().out.splitlines() if ",exec,cpu,matmul," in line]
    assert lines and not any("ref" in line.split(",matmul,")[1].split(",")[0] for line in lines)


@on_x86
def test_refuses_a_cpu_whose_sums_overflow() -> None:
    code = "import torch; from duotok.model.int8 import check_int8; check_int8(torch.device('cpu'))"
    limited = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}  # no VNNI
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=limited)
    assert done.returncode == 1
    assert "overflow on this CPU (it has no VNNI), so tokens would be wrong; use fp32" in done.stderr.splitlines()[-1]


def test_says_where_it_was_not_tried(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(int8, "sums_are_exact", lambda: True)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with caplog.at_level(logging.WARNING):
        check_int8(torch.device("cpu"))
    assert "not tried on aarch64: compare it with fp32" in caplog.text


def test_the_encoder_quantizes_the_lower_blocks_and_nothing_else() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig.preset("tiny")).eval()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    quick = int8_encoder(tokenizer)
    assert not any(isinstance(m, nn.Linear) for m in quick.lower_blocks.modules())
    assert sum(isinstance(m, Int8Linear) for m in quick.modules()) == 4
    assert quick.downsampling is tokenizer.downsampling and quick.branches is tokenizer.branches
    assert before.keys() == tokenizer.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in tokenizer.state_dict().items())
    mel = torch.randn(2, 400, 16)
    with torch.no_grad():
        true, found = tokenizer.lower(mel), quick.lower(mel)
        assert 1e-4 < float((found - true).norm() / true.norm()) < 0.05
        codes = quick.encode(mel, "vocals")
        assert (codes == tokenizer.encode(mel, "vocals")).float().mean() > 0.8
        assert torch.equal(codes, tokenizer.quantize(found, "vocals").codes)


def test_refuses_a_gpu_and_a_torch_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    check_int8(torch.device("cpu"))
    with pytest.raises(ConfigError, match="int8' runs on a CPU, not on cuda:0; use bf16"):
        check_int8(torch.device("cuda:0"))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no 8-bit kernels"):
        check_int8(torch.device("cpu"))
