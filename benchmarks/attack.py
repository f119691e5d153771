"""The rate of an attack on a ResNet-50, against a bare loop of forward and backward passes.

`bare loop`: for each step the logits of a batch that is ready, and the gradient of their loss for the images.
`attack`: engine.backends.torch.TorchSession.attacked with pgd_linf, from uint8 pixels to logits: the steps, their
projection, and the pass that judges the last iterate. The start is drawn before, as a run does it in another thread.
`gradients in bf16`: the same with `gradients = "bf16"`; how many images it answers otherwise is printed.
`torchvision`: the bare loop with torchvision's own module in place of the ONNX file in torch.

All with the same batch, channels_last, float32 unless said otherwise, and no gradient for a parameter. A step is a
forward and a backward pass. The weights are random: they do not change the speed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
from _common import MODEL, SIZE, arguments, folder, in_turn, machine, photographs, ratio, ratios, resnet50, table, timed

from bandlens.engine.backends.base import variant_of
from bandlens.export.model_files import NORMALIZATIONS, load_model
from bandlens.probes.attacks import PGD_LINF, uniform_start

if TYPE_CHECKING:
    from torch import Tensor

    from bandlens.export.onnx.from_torch import Normalized

BARE, ATTACK, COARSE, TORCHVISION = "bare loop", "attack", "gradients in bf16", "torchvision"


def bare_loop(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, steps: int) -> None:
    import torch  # here and below, after the options have been read: it takes seconds
    from torch.nn import functional

    for _ in range(steps):
        images = images.detach().requires_grad_()
        loss = functional.cross_entropy(network(images), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    gradient[0, 0, 0, 0].item()  # on a GPU the work has ended only when this number is here


ENGINES = {"cpu": "torch", "cuda": "torch-cuda"}
"""The engine of each device, by torch's name of the device."""


def native(device: str) -> Normalized:
    """The ResNet-50 as torchvision makes it."""
    import torch
    import torchvision

    from bandlens.export.onnx.from_torch import Normalized

    network = torchvision.models.resnet50(weights=None)
    model = Normalized(network, *NORMALIZATIONS["imagenet"]).eval().requires_grad_(False)
    return model.to(device, memory_format=torch.channels_last)


def main() -> None:
    options = arguments(
        __doc__,
        repeats=3,
        quick=1,
        batch=(16, "images a batch"),
        steps=(40, "steps of the attack"),
        threads=(2, "threads of torch"),
        device=("cpu", "cpu or cuda"),
    )
    import torch

    from bandlens.engine.backends.torch import open_session

    batch, steps = (2, 2) if options.quick else (options.batch, options.steps)
    with ExitStack() as stack:
        place = stack.enter_context(folder(options.keep))
        resnet50(place / "models")
        variant = variant_of(load_model(place / "models", MODEL), ENGINES[options.device], "fp32")
        session = stack.enter_context(open_session(variant, batch, options.threads))
        machine("torch", "torchvision")
        module = native(options.device)
        pixels, labels = photographs(batch), np.arange(batch, dtype=np.int32)
        start = uniform_start(0, np.arange(batch, dtype=np.uint64), SIZE)
        condition, coarse = PGD_LINF.conditions({"steps": steps, "gradients": ["fp32", "bf16"]})
        images = session.place(pixels).to(torch.float32).div_(255)
        targets = torch.from_numpy(labels).to(images.device, torch.int64)
        seconds = in_turn(
            {
                BARE: timed(lambda: bare_loop(session.network, images, targets, steps)),
                ATTACK: timed(lambda: session.attacked(condition, pixels, labels, start)),
                COARSE: timed(lambda: session.attacked(coarse, pixels, labels, start)),
                TORCHVISION: timed(lambda: bare_loop(module, images, targets, steps)),
            },
            options.repeats,
        )
        answers = [session.attacked(setting, pixels, labels, start).argmax(1) for setting in (condition, coarse)]
    rates = {name: [batch * steps / s for s in values] for name, values in seconds.items()}
    table(
        [f"{steps} steps, batch {batch}", "steps of an image a second", "of the bare loop"],
        [[name, values, ratios(values, rates[BARE])] for name, values in rates.items()],
    )
    ratio("attack over bare loop", ratios(rates[ATTACK], rates[BARE]), ">= 0.9")
    ratio("gradients in bf16 over fp32", ratios(rates[COARSE], rates[ATTACK]), "> 1 where bf16 is native")
    print(f"answers that differ: {(answers[0] != answers[1]).sum()} of {batch}")


if __name__ == "__main__":
    main()
