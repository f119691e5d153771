"""torch on the CPU or a GPU, where gradients flow: an ONNX file as a network, checked once it is loaded.

On a GPU the batch that CuPy perturbed is the network's input.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import BandlensError, DeviceError, EngineError
from ...core.records import Condition, SessionInfo, Variant
from ...core.untrusted import first_line
from ...export.onnx.parity import TOLERANCE, measure_parity, onnx_logits
from ...export.onnx.precisions import read_for_cpu
from ...export.reference_images import photograph_crops
from ...probes.arrays import Array
from ...probes.attacks import band_of, gradients_of
from ..device.devices import gpus, processor_name, readiness
from ..device.gpu_errors import COMMITTED, first_error, gpu_errors
from ..device.requirements import require_precision, usable
from ..device.streams import in_network_stream, network_stream
from .base import ALL_ROWS, ENGINES, Attacker, arrays_of, check_images, content_of, onnx_file_of
from .pgd import Attacked, Budget, Network, loss_gradient, pgd, pgd_any

ATTACKS: Mapping[str, Callable[..., Attacked]] = {"pgd_linf": pgd, "pgd_any": pgd_any}
"""The attack of each family of `probes.attacks`."""
CLOSE = {"fp32": TOLERANCE, "fp16": 2e-2}
"""The largest difference of the logits from ONNX Runtime's on the same file, relative to the largest logit.

In float32 it is that of an export. Float16 rounds what was added up in another order to its other side now and then:
by 4e-3 on ResNet-50 with random weights.
"""
VERSIONS = {"torch": torch.__version__, "numpy": np.__version__}
_ALL, _CUDNN, _PRODUCTS = torch.backends, torch.backends.cudnn, torch.backends.cuda.matmul
_LIBRARIES = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
EXACT: Sequence[tuple[Any, str, Any]] = [
    *[(_CUDNN, "enabled", True), (_CUDNN, "benchmark", False), (_CUDNN, "deterministic", True)],
    *[(_PRODUCTS, f"allow_{half}_reduced_precision_reduction", False) for half in ("fp16", "bf16")],
    (_CUDNN, "allow_tf32", False),  # before the newer names of the same, which it changes
    *((attrgetter(name)(_ALL), "fp32_precision", "ieee") for name in _LIBRARIES if hasattr(_ALL, "fp32_precision")),
]
"""Places, names and values of settings with which torch rounds nothing to less than float32; newer names since 2.9."""


@contextmanager
def exact(threads: int) -> Iterator[None]:
    """While the block lasts torch adds up in float32 proper, by algorithms that repeat themselves, on so many threads.

    By default it takes TF32 for convolutions on a GPU that has it, which keeps 10 of float32's 23 bits, and may add up
    products of halves in halves. After `torch.set_float32_matmul_precision("medium")` a CPU takes bfloat16.
    """
    count, products, settings = torch.get_num_threads(), "", list[tuple[Any, str, Any]]()
    with suppress(RuntimeError):  # torch refuses to read by an older name what was set by a newer one
        products = torch.get_float32_matmul_precision()
    for place, name, _ in EXACT:
        with suppress(RuntimeError):
            settings.append((place, name, getattr(place, name)))
    torch.set_num_threads(threads)
    try:
        torch.set_float32_matmul_precision("highest")
        for setting in EXACT:
            setattr(*setting)
        yield
    finally:
        torch.set_num_threads(count)
        if products:
            torch.set_float32_matmul_precision(products)
        for setting in settings:
            setattr(*setting)


ONE_STEP = Budget(eps=0.0, step=0.0, steps=1)
"""An attack that costs what a step does and moves nothing."""
Load = Callable[[Variant, str], Network]
"""Loads the network of a variant on a device."""


def open_session(variant: Variant, batch: int, threads: int, load: Load | None = None) -> TorchSession:
    """A session on the CPU, or on the GPU, by the variant's engine; `load` gives its network, by default a checked one.

    Raises what `load` does, EngineError where the engine or the precision cannot be used here, and DeviceError.
    """
    if not readiness(variant.engine).ready:
        raise EngineError(readiness(variant.engine).line)
    kind = TorchSession if ENGINES[variant.engine].arrays == "numpy" else CardSession
    return kind(variant, batch, threads, load or checked_network)


def checked_network(variant: Variant, device: str) -> Network:
    """The network of the variant's ONNX file on the device, if it computes there what ONNX Runtime computes from it.

    Raises ExportError for a file that is not the one that was named, and EngineError for an operator that is not known
    or logits that are others.
    """
    from ...export.torch.network import OnnxNetwork  # here, since a network that is no file needs no package onnx

    images = photograph_crops(variant.model.image_size)
    onnx_file = onnx_file_of(variant)
    comparable = read_for_cpu(onnx_file)
    try:
        onnx_network = OnnxNetwork(comparable if ENGINES[variant.engine].arrays == "numpy" else content_of(variant))
    except BandlensError as error:
        raise EngineError(f"{variant}: {error}") from error
    except Exception as error:
        raise EngineError(
            f"{variant.path}: torch cannot open it: {first_line(error)}; take another engine, or export "
            f"{variant.model.name} again"
        ) from error
    with torch_errors(variant), torch.no_grad():
        network: Network = onnx_network.to(device)
        logits = network(place_on(images, device)).cpu().numpy()
    expected = onnx_logits(comparable, images)
    finite = np.isfinite(expected).all(axis=1)  # those that are not fail the cell of an image that has them
    if finite.any():
        parity = measure_parity(expected[finite], logits[finite])
        if not parity.relative_difference <= CLOSE[onnx_file.precision]:  # nor NaN
            raise EngineError(
                f"{variant}: torch does not compute what ONNX Runtime does: {parity}; take another engine, without "
                "attacks"
            )
    return network


def place_on(images: NDArray[Any], device: str) -> Tensor:
    """(n, 3, S, S) on the device, laid out as convolutions want."""
    return torch.from_numpy(images).to(device).contiguous(memory_format=torch.channels_last)


class TorchSession(Attacker):
    """Torch's settings are those of the session until it is closed.

    Sessions that are open together are closed in the reverse order, so that each puts back what it found.

    fp16 runs the fp16 file in the types that stand in it; on the CPU, where torch's float16 is ten times slower and
    more, each operator in float32 with its result rounded. bf16 runs the fp32 file with its convolutions and products
    in bfloat16, and the rest by torch's rules for mixed precision; what is compared with ONNX Runtime is the file in
    float32, and what bfloat16 makes of it is for a gate.
    """

    _device = "cpu"
    """Torch's name of the device."""

    def __init__(self, variant: Variant, batch: int, threads: int, load: Load) -> None:
        self.variant = variant
        self.info = self._describe(batch, threads)
        self._shape = (batch, 3, variant.model.image_size, variant.model.image_size)
        self.place = partial(place_on, device=self._device)
        with ExitStack() as settings:
            settings.enter_context(exact(threads))
            network = load(variant, self._device)
            self.network = in_bfloat16(network) if variant.precision == "bf16" else network
            self._prepare()
            self._settings = settings.pop_all()

    def _describe(self, batch: int, threads: int) -> SessionInfo:
        return SessionInfo(processor_name(), batch, threads, json.dumps(VERSIONS))

    def _prepare(self) -> None:
        """Take the memory that the session needs, before it is used; on the CPU there is nothing to take."""

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:  # noqa: ARG002 - it runs whole batches
        check_images(self.variant, images, self._shape)
        with torch_errors(self.variant), torch.no_grad():
            return self.network(self.place(images)).numpy()

    def attacked(
        self,
        condition: Condition,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int32] | None,
        start: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        attack = ATTACKS[condition.probe]
        eps, step, steps = (float(condition[name]) for name in ("eps", "step", "steps"))
        budget = Budget(eps, step, int(steps), band_of(condition))
        with torch_errors(self.variant):
            images, searched = self.place(pixels).to(torch.float32).div_(255), self._searched(gradients_of(condition))
            classes = self._classes(images, labels)
            attacked = attack(self.network, images, classes, self.place(start), budget, searched=searched)
            return attacked.logits.cpu().numpy()

    def gradients(self, pixels: NDArray[np.uint8], labels: NDArray[np.int32] | None) -> NDArray[np.float32]:
        with torch_errors(self.variant):
            images = self.place(pixels).to(torch.float32).div_(255)
            return loss_gradient(self.network, images, self._classes(images, labels))[1].cpu().numpy()

    def _classes(self, images: Tensor, labels: NDArray[np.int32] | None) -> Tensor:
        """The classes that the loss is of: the labels, or else those that the network gives the images."""
        if labels is not None:
            return torch.tensor(labels, dtype=torch.int64, device=self._device)  # a copy: they may be read-only
        with torch.no_grad():
            return self.network(images).argmax(1)

    def _searched(self, gradients: str) -> Network | None:
        """The network whose gradients an attack follows, if it is another than the one that is judged.

        Raises EngineError for a precision that the device lacks.
        """
        return in_bfloat16(self.network) if gradients == "bf16" else None

    def step_seconds(self, gradients: str = "fp32") -> float:
        searched = self._searched(gradients)
        crops = photograph_crops(self.variant.model.image_size)  # a GPU's clocks depend on the numbers
        images = self.place(crops[np.arange(self._shape[0]) % len(crops)])
        labels = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        for _ in range(2):  # the first time torch prepares itself
            start_seconds = time.perf_counter()
            with torch_errors(self.variant):
                start = torch.zeros_like(images)
                pgd(self.network, images, labels, start, ONE_STEP, searched=searched).logits.cpu()
        return (time.perf_counter() - start_seconds) / len(images)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._settings.close()
        del self.network


class CardSession(TorchSession):
    """A session on the GPU, in CuPy's arrays. It is run as it is opened, so that it has the memory that it needs."""

    _device = "cuda"

    def _describe(self, batch: int, threads: int) -> SessionInfo:  # noqa: ARG002 - a GPU has its own
        self._gpu, self._xp = usable(gpus()), arrays_of(self.variant.engine)
        require_precision(self._gpu, self.variant)
        versions = VERSIONS | {"cupy": self._xp.__version__, "driver": self._gpu.driver}
        return SessionInfo(self._gpu.name, batch, 0, json.dumps(versions))

    def _prepare(self) -> None:
        with torch_errors(self.variant):
            self._logits: Array = self._xp.empty((self.info.batch, self.variant.model.classes), dtype=np.float32)
            images = self._xp.zeros(self._shape, dtype=np.float32)
        self.infer(images)

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:  # noqa: ARG002 - it runs whole batches
        """Logits of one batch; the array is overwritten by the next call."""
        check_images(self.variant, images, self._shape)
        with (
            torch_errors(self.variant),
            torch.no_grad(),
            in_network_stream(self._xp),
            torch.cuda.stream(torch.cuda.ExternalStream(network_stream(self._xp).ptr)),  # type: ignore[no-untyped-call]
        ):
            batch = self._tensor(images).contiguous(memory_format=torch.channels_last)
            self._tensor(self._logits).copy_(self.network(batch))
        return self._logits

    def _tensor(self, array: Array) -> Tensor:
        """CuPy's array as a tensor: the same memory, read through `__cuda_array_interface__`."""
        tensor = torch.as_tensor(array, device=self._device)
        if tensor.data_ptr() != array.data.ptr:
            raise EngineError(f"{self.variant}: torch copies CuPy's arrays, where it should read them; update both")
        return tensor

    def _searched(self, gradients: str) -> Network | None:
        require_precision(self._gpu, replace(self.variant, precision=gradients))
        return super()._searched(gradients)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with first_error(error):
            network_stream(self._xp).synchronize()  # work that was asked for uses all of these
        del self._logits
        super().__exit__(kind, error, trace)


def in_bfloat16(network: Network) -> Network:
    """The network with its convolutions and products in bfloat16, and float32 logits."""

    def run(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return network(images).float()

    return run


@contextmanager
def torch_errors(variant: Variant) -> Iterator[None]:
    """Errors of torch in one line: of the GPU as DeviceError, others as EngineError of this variant."""
    try:
        with gpu_errors():  # CuPy's are RuntimeErrors as well
            yield
    except DeviceError:
        raise
    except BandlensError as error:
        raise EngineError(f"{variant}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{variant}: out of memory on the GPU: {first_line(error)}; try a smaller batch") from error
    except getattr(torch, "AcceleratorError", ()) as error:  # torch 2.7 has none
        raise DeviceError(f"the GPU failed: {first_line(error)}; {COMMITTED}") from error
    except Exception as error:  # operators of a stranger's file fail in any way
        raise EngineError(f"{variant}: torch cannot run its ONNX file: {first_line(error)}") from error
