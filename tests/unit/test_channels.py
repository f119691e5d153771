"""Messages between two processes: whatever is sent arrives, in memory that both see."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import (
    array_shapes,
    arrays,
    boolean_dtypes,
    floating_dtypes,
    integer_dtypes,
    unicode_string_dtypes,
)
from numpy.typing import NDArray

from bandlens.channels import Channel


@contextmanager
def channel() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of a channel between two sockets."""
    near, far = socket.socketpair()
    with near, far:
        yield Channel(near), Channel(far)


dtypes = boolean_dtypes() | integer_dtypes() | floating_dtypes() | unicode_string_dtypes()
some_arrays = arrays(dtypes, array_shapes(min_dims=0, min_side=0, max_side=9))


@given(st.lists(st.lists(some_arrays, max_size=3), min_size=1, max_size=4), st.text())
def test_whatever_is_sent_arrives_in_turns(messages: list[list[NDArray[np.generic]]], text: str) -> None:
    """The memory grows and is used again; no message shows anything of the one before it."""
    with channel() as (near, far):
        for message in messages:
            near.send((text, message))
            heading, received = far.receive()
            assert heading == text
            far.send(received)
            for array, answer in zip(message, near.receive(), strict=True):
                assert (answer.dtype, answer.shape) == (array.dtype, array.shape)
                assert answer.tobytes() == array.tobytes()


def test_arrays_of_any_layout_arrive_and_may_be_written_to() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    layouts = [array, array.T, array[:, ::-1], np.asfortranarray(array), np.array(["a", None, 3], object)]
    with channel() as (near, far):
        near.send(layouts)
        received = far.receive()
        for layout, copy in zip(layouts, received, strict=True):
            np.testing.assert_array_equal(copy, layout)
        received[0][...] = 0
    assert array.any()


def test_descriptors_do_not_pile_up() -> None:
    def count() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    with channel() as (near, far):
        counts = []
        for size in range(1, 60):
            near.send(np.zeros(size * 10_000))
            far.receive()
            counts.append(count())
    assert counts[-1] == counts[0]


def test_the_end_of_the_other_end_is_told() -> None:
    near, far = socket.socketpair()
    with near:
        far.close()
        with pytest.raises(EOFError):
            Channel(near).receive()
        with pytest.raises(OSError, match="Broken pipe"):
            Channel(near).send("x")
