"""Layers compute what ONNX's operators of these names do; tests/models/test_onnx_network.py has all of them."""

from __future__ import annotations

import pytest
import torch

from bandlens.export.torch.layers import average_pool


def test_average_pools_leave_the_padding_out_unless_they_count_it() -> None:
    pool = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    image = torch.ones(1, 1, 3, 3)
    assert (average_pool(image, **pool) == 1).all()
    assert average_pool(image, **pool, count_include_pad=1)[0, 0, 0].tolist() == pytest.approx([4 / 9, 6 / 9, 4 / 9])
