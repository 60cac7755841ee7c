"""Linear layers in 8 bits: near the true ones, row by row; what is not quantized stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from duotok.errors import ConfigError
from duotok.model import Tokenizer, TokenizerConfig
from duotok.model.int8 import Int8Linear, check_int8, int8_encoder


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
