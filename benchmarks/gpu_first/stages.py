"""The stages in the order in which a lent card answers them, each in a process of its own and with a limit."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

from bandlens.core.errors import BandlensError
from bandlens.core.untrusted import first_line
from bandlens.engine.device.nvidia import card_state

from .bench import ROOT, Bench, LeftOut, make_bench
from .checks import Figures, doctor, fill_card, kernels, lose_card
from .engines import build_plans, measure_rates, run_tensorrt, run_torch, try_settings
from .networks import export_model
from .page import describe, write_page


class Stage(NamedTuple):
    measure: Callable[[Bench], Figures]
    limit: float
    """Seconds after which its process is killed."""


STAGES: Mapping[str, Stage] = {
    "doctor": Stage(doctor, 120),
    "kernels": Stage(kernels, 120),
    "fault": Stage(lose_card, 90),
    "memory": Stage(fill_card, 90),
    "export": Stage(export_model, 480),
    "plans": Stage(build_plans, 600),
    "rates": Stage(measure_rates, 600),
    "tensorrt": Stage(run_tensorrt, 300),
    "torch": Stage(run_torch, 300),
    "settings": Stage(try_settings, math.inf),
}
"""The stages in the order in which a lent card answers them; one without a limit runs where it is named alone."""

UNDER_WAY = "begun"
"""The state of a stage while its process is at work, and after one that was killed."""


def run_stages(bench: Bench) -> bool:
    """Run each stage that has not ended well yet in a process of its own; says whether none has failed."""
    print(", ".join(f"{name} {value}" for name, value in bench.machine.items()))
    for name, stage in STAGES.items():
        if stage.limit < math.inf and read_results(bench)["stages"].get(name, {}).get("state") != "done":
            run_process(bench, name, stage.limit)
    return all(record["state"] != "failed" for record in read_results(bench)["stages"].values())


def command_of(bench: Bench, stage: str) -> list[str]:
    """The command that repeats a stage."""
    flag = ["--pretend"] if bench.pretended else []
    return [sys.executable, str(Path(__file__).parent), "--stage", stage, "--out", str(bench.folder), *flag]


def run_process(bench: Bench, name: str, limit: float) -> None:
    """Run a stage in a process, whose output is printed and kept; where it ends unheard of, the stage has failed."""
    log, command, start = bench.folder / f"{name}.log", command_of(bench, name), time.monotonic()
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # all that it has started is killed with it
        ) as process,
    ):
        assert process.stdout is not None
        timer = Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                file.write(line)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            process.wait()
            timer.cancel()
    seconds, results = time.monotonic() - start, read_results(bench)
    record = results["stages"].get(name, {"state": UNDER_WAY, "figures": {}, "cards": {}})
    if record["state"] == UNDER_WAY:
        late = seconds >= limit
        line = f"it had not ended after {limit:.0f} s" if late else f"it ended with code {process.returncode}"
        results["stages"][name] = record | {
            "state": "failed",
            "line": line,
            "place": str(log),
            "seconds": seconds,
            "command": shlex.join(command),
        }
        write_results(bench.folder, results)
        print(f"  failed: {line}")


def run_stage(bench: Bench, name: str) -> bool:
    """Run a stage in this process, and write its figures as they come; says whether it has not failed."""
    results = read_results(bench)
    record: dict[str, Any] = {"state": UNDER_WAY, "figures": {}, "cards": {}, "seconds": 0.0}
    record["command"] = shlex.join(command_of(bench, name))
    results["stages"][name] = record
    write_results(bench.folder, results)
    print(f"\n{name}")
    start = time.perf_counter()
    try:
        for figure, value in STAGES[name].measure(bench):
            record["figures"][figure] = value
            if not bench.pretended and (state := card_state()):
                record["cards"][figure] = ", ".join(f"{name} {value}" for name, value in asdict(state).items())
            print(f"  {describe(f'{name}.{figure}', value)}", flush=True)
            write_results(bench.folder, results)
        record["state"] = "done"
    except (LeftOut, ImportError) as error:
        record |= {"state": "left out", "line": first_line(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs on the page
        traceback.print_exc()
        record |= {"state": "failed", "line": first_line(error), "place": place_of(error)}
    record["seconds"] = time.perf_counter() - start
    write_results(bench.folder, results)
    print(f"  {record['state']}{': ' + record['line'] if 'line' in record else ''} ({record['seconds']:.1f} s)")
    return bool(record["state"] != "failed")


def place_of(error: BaseException) -> str:
    """The last line of this checkout that the error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(ROOT)]
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "the log"


def read_results(bench: Bench) -> dict[str, Any]:
    """The results of this machine and these sizes in the bench's folder; without any stage where there are none."""
    empty = {"machine": bench.machine, "sizes": json.loads(json.dumps(asdict(bench.sizes))), "stages": {}}
    with suppress(OSError, ValueError):
        results: dict[str, Any] = json.loads((bench.folder / "results.json").read_text(encoding="utf-8"))
        if all(results[key] == empty[key] for key in ("machine", "sizes")):
            return results
    return empty


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    partial = folder / "results.partial"
    partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    partial.replace(folder / "results.json")


def main(doc: str | None) -> None:
    parser = argparse.ArgumentParser("gpu_first", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, help="this one alone, in this process")
    parser.add_argument("--out", type=Path, default=Path("gpu_first.results"), help="folder for all that is made")
    parser.add_argument("--pretend", action="store_true", help="on a pretended card, at tiny sizes: does it work")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.out.resolve()
    limit = STAGES[options.stage].limit if options.stage else math.inf
    try:
        bench = make_bench(options.pretend, folder, limit)
        succeeded = run_stage(bench, options.stage) if options.stage else run_stages(bench)
        write_page(folder, read_results(bench))
    except (BandlensError, ImportError) as error:  # there is no GPU, or no torch
        sys.exit(str(error))
    sys.exit(not succeeded)
