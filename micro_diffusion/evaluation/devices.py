"""One command on several devices at once: a process for each, which ends with this one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from micro_diffusion.machine.processes import exit_with_parent


def on_devices(arguments: Sequence[str], devices: Sequence[str]) -> None:
    """Run `micro-diffusion ARGUMENTS --device D --share K/N` for each of N devices, and wait for all.

    Raises:
        ChildProcessError: when one of them fails; the others are stopped.
    """
    commands = [
        [*_program(), *arguments, "--device", device, "--share", f"{number}/{len(devices)}"]
        for number, device in enumerate(devices)
    ]
    # the kernel remembers the thread's parent, so the child asks for the signal itself
    processes = [
        subprocess.Popen(command, preexec_fn=partial(exit_with_parent, signal.SIGTERM)) for command in commands
    ]
    try:
        running = list(zip(devices, processes, strict=True))
        while running:
            device, process = next((pair for pair in running if pair[1].poll() is not None), running[0])
            try:
                code = process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            running.remove((device, process))
            if code:
                raise ChildProcessError(
                    f"the process on {device} ended with {code}, as it says above; give the same command again to go on"
                )
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _program() -> list[str]:
    return [sys.executable, "-m", "micro_diffusion.cli"]
