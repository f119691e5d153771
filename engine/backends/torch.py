"""torch on the CPU or a GPU, where gradients flow: an ONNX file as a network, in float32, checked once it is loaded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BandlensError, DeviceError, EngineError
from ...export.parity import compare, onnx_logits
from ...export.photographs import photograph_crops
from ...export.torch.network import OnnxNetwork
from ...probes.arrays import Array
from ...probes.attacks import band_of
from ...records import Condition, SessionInfo, Variant
from ...untrusted import first_line
from ..device.devices import gpus, processor_name, readiness
from ..device.requirements import usable
from .base import arrays_of, check_images, content_of
from .pgd import Attacked, Network, pgd, pgd_any

ATTACKS: Mapping[str, Callable[..., Attacked]] = {"pgd_linf": pgd, "pgd_any": pgd_any}
"""What each family of `probes.attacks` does; its parameters are keywords."""
CLOSE = 1e-4
"""How far the logits may lie from ONNX Runtime's on the same file, relative to the largest."""


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


def open_session(variant: Variant, batch: int, threads: int) -> TorchSession:
    return TorchSession(variant, batch, threads)


class TorchSession:
    """See `engine.backends.base.Attacker`. Torch's settings are those of the session until it is closed."""

    def __init__(self, variant: Variant, batch: int, threads: int) -> None:
        """Load and check it.

        Raises ExportError for a file that is not the one that was named, EngineError for an operator that is not known
        or where the network does not compute what ONNX Runtime computes from the file, and DeviceError.
        """
        if not readiness(variant.engine).ready:
            raise EngineError(readiness(variant.engine).line)
        self.variant = variant
        self.xp = arrays_of(variant.engine)
        self._shape = (batch, 3, variant.model.image_size, variant.model.image_size)
        self._device = "cpu" if self.xp is np else "cuda"
        versions = {"torch": torch.__version__, "numpy": np.__version__}
        if self.xp is np:
            self.info = SessionInfo(processor_name(), batch, threads, json.dumps(versions))
        else:
            gpu = usable(gpus())
            self.info = SessionInfo(gpu.name, batch, 0, json.dumps(versions | {"driver": gpu.driver}))
        with ExitStack() as settings:
            settings.enter_context(single_precision(threads))
            self.network = self._checked_network()
            self._settings = settings.pop_all()

    def _checked_network(self) -> Network:
        variant, images = self.variant, photograph_crops(self.variant.model.image_size)
        content = content_of(variant)
        try:
            read = OnnxNetwork(content)
        except BandlensError as error:
            raise EngineError(f"{variant}: {error}") from error
        except Exception as error:
            raise EngineError(
                f"{variant.path}: torch cannot open it: {first_line(error)}; take another engine, or export "
                f"{variant.model.name} again"
            ) from error
        with torch_errors(variant), torch.no_grad():
            network: Network = read.to(self._device)
            found = network(self.place(images)).cpu().numpy()
        wanted = onnx_logits(content, images)
        finite = np.isfinite(wanted).all(axis=1)  # those that are not fail the cell of an image that has them
        parity = compare(wanted[finite], found[finite]) if finite.any() else None
        if parity and not parity.relative_difference <= CLOSE:  # nor NaN
            raise EngineError(
                f"{variant}: torch does not compute what ONNX Runtime does: {parity}; take another engine, without "
                "attacks"
            )
        return network

    def infer(self, images: Array) -> Array:
        """Logits of one batch."""
        check_images(self.variant, images, self._shape)
        with torch_errors(self.variant), torch.no_grad():
            if self.xp is np:
                return self.network(self.place(images)).numpy()
            # In the caller's stream, in which torch's allocator then reuses the memory too.
            caller = torch.cuda.ExternalStream(self.xp.cuda.get_current_stream().ptr)  # type: ignore[no-untyped-call]
            with torch.cuda.stream(caller):
                there = torch.as_tensor(images, device=self._device).contiguous(memory_format=torch.channels_last)
                return self.xp.asarray(self.network(there).contiguous())

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
        attack = ATTACKS[condition.probe]
        budget = dict(condition.parameters) | {"band": band_of(condition)}
        with torch_errors(self.variant):
            images = self.place(pixels).to(torch.float32).div_(255)
            try:
                wanted = self._wanted(images, labels)
                return attack(self.network, images, wanted, start=self.place(start), **budget).logits.cpu().numpy()
            except torch.OutOfMemoryError as error:
                said = first_line(error)
            # Outside of the handler: the error holds on to what the attack had allocated.
            fits = largest_batch(self.network, images)
        advice = f"batch = {fits} fits" if fits else "free memory on the GPU"
        raise DeviceError(f"{self.variant}: out of memory on the GPU at batch {len(images)}: {said}; {advice}")

    def _wanted(self, images: Tensor, labels: NDArray[np.int32] | None) -> Tensor:
        if labels is not None:
            return torch.tensor(labels, dtype=torch.int64, device=self._device)  # a copy: they may be read-only
        with torch.no_grad():
            return self.network(images).argmax(1)

    def step_seconds(self) -> float:
        images = self.place(np.zeros(self._shape, np.float32))
        labels = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        for _ in range(2):  # the first time torch prepares itself
            started = time.perf_counter()
            with torch_errors(self.variant):
                pgd(self.network, images, labels, 0.0, 0.0, 1, torch.zeros_like(images)).logits.cpu()
        return (time.perf_counter() - started) / len(images)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settings.close()
        del self.network


def largest_batch(network: Network, images: Tensor) -> int:
    """The most of 1/2, 1/4, … of the images whose gradient fits into the device's memory now; 0 where none does."""
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
        raise DeviceError(f"{variant}: out of memory on the GPU: {first_line(error)}; try a smaller batch") from error
    except torch.AcceleratorError as error:
        raise DeviceError(
            f"the GPU failed: {first_line(error)}; what was committed stays, and the next run goes on there"
        ) from error
    except (RuntimeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        raise EngineError(f"{variant}: torch cannot run its ONNX file: {first_line(error)}") from error
