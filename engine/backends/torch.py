"""A variant in torch, where gradients flow: on the CPU or a GPU, in float32, checked once it is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BandlensError, DeviceError, EngineError
from ...export.files import reason
from ...export.models import verify_model
from ...export.parity import compare, onnx_logits
from ...export.photographs import photograph_crops
from ...export.torch.network import OnnxNetwork
from ...records import Condition, Variant
from ..device.devices import gpus
from ..device.driver import Gpu
from ..device.requirements import usable
from .pgd import Attacked, Network, pgd, pgd_any

DEVICES: Mapping[str, str] = {"torch": "cpu", "torch-cuda": "cuda"}
"""torch's name of the device, for each engine of attacks."""
ATTACKS: Mapping[str, Callable[..., Attacked]] = {"pgd_linf": pgd, "pgd_any": pgd_any}
"""What each family of `probes.attacks` does; its parameters are keywords."""
CLOSE = 1e-4
"""How far the logits may lie from ONNX Runtime's on the same file, relative to the largest."""


def check_gpu() -> Gpu:
    """The GPU that torch computes on; EngineError where there is none that it can use."""
    gpu = usable(gpus())
    if not torch.cuda.is_available():
        raise EngineError(
            f"torch {torch.__version__} cannot use {gpu.name}; run: pip install --force-reinstall torch torchvision"
        )
    return gpu


@contextmanager
def single_precision(threads: int) -> Iterator[None]:
    """While the block lasts torch computes in float32 proper, by algorithms that repeat themselves, on so many threads.

    By default its convolutions take TF32 on a GPU that has it, which keeps 10 of float32's 23 bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)


class Attackable:
    """The network of a variant's ONNX file on the device of its engine."""

    def __init__(self, variant: Variant) -> None:
        """Load and check it.

        Raises ExportError for a file that is not the one that was named, EngineError for an operator that is not known
        or where the network does not compute what ONNX Runtime computes from the file, and DeviceError.
        """
        self.variant = variant
        self._device = DEVICES[variant.engine]
        if self._device == "cuda":
            check_gpu()
        content, images = verify_model(variant.model), photograph_crops(variant.model.image_size)
        with torch_errors(variant), torch.no_grad():
            self.network: Network = OnnxNetwork(content).to(self._device)
            found = self.network(self.place(images)).cpu().numpy()
        wanted = onnx_logits(content, images)
        finite = np.isfinite(wanted).all(axis=1)  # those that are not fail the cell of an image that has them
        parity = compare(wanted[finite], found[finite]) if finite.any() else None
        if parity and not parity.relative_difference <= CLOSE:  # nor NaN
            raise EngineError(f"{variant}: torch does not compute what ONNX Runtime does, so no attack: {parity}")

    def place(self, images: NDArray[Any]) -> Tensor:
        """(n, 3, S, S) on the device, laid out as convolutions want."""
        return torch.from_numpy(images).to(self._device).contiguous(memory_format=torch.channels_last)

    def attacked(
        self,
        condition: Condition,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int32] | None,
        start: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """(n, classes) logits of the images that the attack makes of (n, 3, S, S) pixels.

        Without labels it leads away from the classes that the network gives the pixels themselves. `start` is that of
        `engine.pgd`.
        """
        attack, budget = ATTACKS[condition.probe], dict(condition.parameters)
        with torch_errors(self.variant):
            images = self.place(pixels).to(torch.float32).div_(255)
            try:
                wanted = self._wanted(images, labels)
                return attack(self.network, images, wanted, start=self.place(start), **budget).logits.cpu().numpy()
            except torch.OutOfMemoryError as error:
                said = reason(error)
            # Outside of the handler: the error holds on to what the attack had allocated.
            fits = largest_batch(self.network, images)
        advice = f"batch = {fits} fits" if fits else "free memory on the GPU"
        raise DeviceError(f"{self.variant}: out of memory on the GPU at batch {len(images)}: {said}; {advice}")

    def _wanted(self, images: Tensor, labels: NDArray[np.int32] | None) -> Tensor:
        if labels is not None:
            return torch.from_numpy(labels).to(self._device, torch.int64)
        with torch.no_grad():
            return self.network(images).argmax(1)

    def step_seconds(self, batch: int) -> float:
        """Of one step for an image, the judgement included."""
        size = self.variant.model.image_size
        images = self.place(np.zeros((batch, 3, size, size), np.float32))
        labels = torch.zeros(batch, dtype=torch.int64, device=self._device)
        for _ in range(2):  # the first time torch prepares itself
            started = time.perf_counter()
            with torch_errors(self.variant):
                pgd(self.network, images, labels, 0.0, 0.0, 1, torch.zeros_like(images)).logits.cpu()
        return (time.perf_counter() - started) / batch


def largest_batch(network: Network, images: Tensor) -> int:
    """Of 1/2, 1/4, … of the images, the most whose gradient fits into the device's memory now; 0 where none does."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    count = len(images) // 2
    while count:
        if images.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            pgd(network, images[:count], labels[:count], 0.0, 0.0, 1, torch.zeros_like(images[:count]))
        except torch.OutOfMemoryError:
            count //= 2
        else:
            return count
    return 0


@contextmanager
def torch_errors(variant: Variant) -> Iterator[None]:
    """Errors of torch in one line: of the GPU as DeviceError, others as EngineError of this variant."""
    try:
        yield
    except BandlensError as error:
        raise EngineError(f"{variant}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{variant}: out of memory on the GPU: {reason(error)}; try a smaller batch") from error
    except torch.AcceleratorError as error:
        raise DeviceError(
            f"the GPU failed: {reason(error)}; what was committed stays, and the next run goes on there"
        ) from error
    except (RuntimeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        raise EngineError(f"{variant}: torch cannot run its ONNX file: {reason(error)}") from error
