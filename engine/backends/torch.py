"""Run ONNX files in torch, on the CPU or a GPU, with gradients for attacks. Results are checked against ONNX Runtime.

On a GPU the model reads the batch that CuPy perturbed directly, without a copy.
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
"""The function that computes each attack of `probes.attacks`."""
CLOSE = {"fp32": TOLERANCE, "fp16": 2e-2}
"""Largest allowed difference between the logits of torch and of ONNX Runtime, relative to the largest |logit|.

For float32 it is the tolerance of an export. In float16, sums in a different order are sometimes rounded differently:
the difference was 4e-3 on ResNet-50 with random weights.
"""
VERSIONS = {"torch": torch.__version__, "numpy": np.__version__}
"""Versions of the libraries, stored with each session."""
_ALL, _CUDNN, _PRODUCTS = torch.backends, torch.backends.cudnn, torch.backends.cuda.matmul
_LIBRARIES = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
EXACT: Sequence[tuple[Any, str, Any]] = [
    *[(_CUDNN, "enabled", True), (_CUDNN, "benchmark", False), (_CUDNN, "deterministic", True)],
    *[(_PRODUCTS, f"allow_{half}_reduced_precision_reduction", False) for half in ("fp16", "bf16")],
    # This must precede `fp32_precision`, the newer name of the same setting, because setting it changes that one too.
    (_CUDNN, "allow_tf32", False),
    *((attrgetter(name)(_ALL), "fp32_precision", "ieee") for name in _LIBRARIES if hasattr(_ALL, "fp32_precision")),
]
"""Owner, name and value of each torch setting that prevents rounding below float32 and nondeterministic algorithms.

torch 2.9 introduced the `fp32_precision` names.
"""


@contextmanager
def exact(threads: int) -> Iterator[None]:
    """Make torch compute in true float32 with deterministic algorithms on `threads` threads while the block runs.

    By default torch uses TF32 for convolutions on GPUs that support it, which has 10 of float32's 23 mantissa bits, and
    may accumulate float16 products in float16. After `torch.set_float32_matmul_precision("medium")` it uses bfloat16 on
    a CPU. The previous settings are restored at the end.
    """
    count, products, settings = torch.get_num_threads(), "", list[tuple[Any, str, Any]]()
    # torch raises if a setting is read by its older name after it was set by the newer one.
    with suppress(RuntimeError):
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
"""An attack of one step that costs as much as any step and does not change the image.

Used to measure the time of a step.
"""
Load = Callable[[Variant, str], Network]
"""Loads the model of a variant on a device."""


def open_session(variant: Variant, batch: int, threads: int, load: Load | None = None) -> TorchSession:
    """Open a session on the CPU or the GPU, depending on the engine of the variant.

    Args:
        variant: The model, engine and precision.
        batch: Batch size.
        threads: Number of CPU threads.
        load: Loads the model. By default `checked_network`. Its errors are passed on.

    Raises:
        EngineError: If the engine or the precision cannot be used here.
        DeviceError: If the GPU fails or is out of memory.
    """
    if not readiness(variant.engine).ready:
        raise EngineError(readiness(variant.engine).line)
    kind = TorchSession if ENGINES[variant.engine].arrays == "numpy" else CardSession
    return kind(variant, batch, threads, load or checked_network)


def checked_network(variant: Variant, device: str) -> Network:
    """Load the ONNX file of the variant on the device, and check that torch computes the same logits as ONNX Runtime.

    Raises:
        ExportError: If the content of the file has changed since it was selected.
        EngineError: If the file contains an unsupported operator, or if the logits differ.
    """
    # Imported here because models that are not ONNX files do not need the package onnx.
    from ...export.torch.network import OnnxNetwork

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
    # Rows that are not finite are ignored here, because the run reports them for the cell in which they occur.
    finite = np.isfinite(expected).all(axis=1)
    if finite.any():
        parity = measure_parity(expected[finite], logits[finite])
        if not parity.relative_difference <= CLOSE[onnx_file.precision]:  # written with `not` so that NaN fails as well
            raise EngineError(
                f"{variant}: torch does not compute what ONNX Runtime does: {parity}; take another engine, without "
                "attacks"
            )
    return network


def place_on(images: NDArray[Any], device: str) -> Tensor:
    """Copy (n, 3, S, S) images to the device in channels-last memory format, which convolutions prefer."""
    return torch.from_numpy(images).to(device).contiguous(memory_format=torch.channels_last)


class TorchSession(Attacker):
    """A session of torch on the CPU. It also changes torch's global settings (see `exact`) until it is closed.

    Close sessions in the reverse order in which they were opened, so that each restores the settings that it found.

    fp16 runs the fp16 file in the data types of the file. On the CPU, where float16 in torch is at least ten times
    slower, each operator computes in float32 and its result is rounded to float16.

    bf16 runs the fp32 file with convolutions and matrix products in bfloat16 and everything else by the rules of
    `torch.autocast`. Only the float32 computation is compared with ONNX Runtime. Use `bandlens gate precision` to test
    whether bfloat16 changes the predictions.
    """

    _device = "cpu"
    """Name of the device in torch."""

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
        """Allocate the memory that the session needs. Nothing needs to be allocated on the CPU."""

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:  # noqa: ARG002 - it always runs the whole batch
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
        """Return the classes of the loss: the labels, or if there are none the model's predictions."""
        if labels is not None:
            # Copied, because the array may be read-only.
            return torch.tensor(labels, dtype=torch.int64, device=self._device)
        with torch.no_grad():
            return self.network(images).argmax(1)

    def _searched(self, gradients: str) -> Network | None:
        """Return the model whose gradients an attack follows, or None if it is the attacked model itself.

        Raises EngineError if the device does not support the precision.
        """
        return in_bfloat16(self.network) if gradients == "bf16" else None

    def step_seconds(self, gradients: str = "fp32") -> float:
        searched = self._searched(gradients)
        # Real images, because the clock rate of a GPU depends on the data.
        crops = photograph_crops(self.variant.model.image_size)
        images = self.place(crops[np.arange(self._shape[0]) % len(crops)])
        labels = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        for _ in range(2):  # the first step includes the initialization of torch, so only the second is measured
            start_seconds = time.perf_counter()
            with torch_errors(self.variant):
                start = torch.zeros_like(images)
                pgd(self.network, images, labels, start, ONE_STEP, searched=searched).logits.cpu()
        return (time.perf_counter() - start_seconds) / len(images)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._settings.close()
        del self.network


class CardSession(TorchSession):
    """A session on the GPU, which accepts CuPy arrays.

    It runs one batch when it is opened, so that all memory it needs is allocated from then on.
    """

    _device = "cuda"

    def _describe(self, batch: int, threads: int) -> SessionInfo:  # noqa: ARG002 - not used on a GPU
        self._gpu, self._xp = usable(gpus()), arrays_of(self.variant.engine)
        require_precision(self._gpu, self.variant)
        versions = VERSIONS | {"cupy": self._xp.__version__, "driver": self._gpu.driver}
        return SessionInfo(self._gpu.name, batch, 0, json.dumps(versions))

    def _prepare(self) -> None:
        with torch_errors(self.variant):
            self._logits: Array = self._xp.empty((self.info.batch, self.variant.model.classes), dtype=np.float32)
            images = self._xp.zeros(self._shape, dtype=np.float32)
        self.infer(images)

    def infer(self, images: Array, rows: slice = ALL_ROWS) -> Array:  # noqa: ARG002 - it always runs the whole batch
        """Compute the logits of one batch. The next call overwrites the returned array."""
        check_images(self.variant, images, self._shape)
        with (
            torch_errors(self.variant),
            torch.no_grad(),
            in_network_stream(self._xp),
            # Make torch launch its work in CuPy's stream, because torch's own current stream is not ordered with it.
            torch.cuda.stream(torch.cuda.ExternalStream(network_stream(self._xp).ptr)),  # type: ignore[no-untyped-call]
        ):
            batch = self._tensor(images).contiguous(memory_format=torch.channels_last)
            self._tensor(self._logits).copy_(self.network(batch))
        return self._logits

    def _tensor(self, array: Array) -> Tensor:
        """View a CuPy array as a tensor on the same memory, through `__cuda_array_interface__`."""
        tensor = torch.as_tensor(array, device=self._device)
        if tensor.data_ptr() != array.data.ptr:
            raise EngineError(f"{self.variant}: torch copies CuPy's arrays, where it should read them; update both")
        return tensor

    def _searched(self, gradients: str) -> Network | None:
        require_precision(self._gpu, replace(self.variant, precision=gradients))
        return super()._searched(gradients)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with first_error(error):
            network_stream(self._xp).synchronize()  # launched work may still use the buffers that are freed below
        del self._logits
        super().__exit__(kind, error, trace)


def in_bfloat16(network: Network) -> Network:
    """Return a function that runs the model with convolutions and matrix products in bfloat16.

    Its logits are float32.
    """

    def run(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return network(images).float()

    return run


@contextmanager
def torch_errors(variant: Variant) -> Iterator[None]:
    """Convert errors of torch to one-line errors.

    Errors of the GPU become DeviceError, and all others EngineError for this variant.
    """
    try:
        with gpu_errors():  # CuPy's errors are RuntimeErrors as torch's are, so they are converted first
            yield
    except DeviceError:
        raise
    except BandlensError as error:
        raise EngineError(f"{variant}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{variant}: out of memory on the GPU: {first_line(error)}; try a smaller batch") from error
    except getattr(torch, "AcceleratorError", ()) as error:  # torch 2.7 does not have this class
        raise DeviceError(f"the GPU failed: {first_line(error)}; {COMMITTED}") from error
    except Exception as error:  # operators in an untrusted file can raise anything
        raise EngineError(f"{variant}: torch cannot run its ONNX file: {first_line(error)}") from error
