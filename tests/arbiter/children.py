"""Tenants in processes of their own, driven line by line: `python children.py DEVICE NAME CLASS`.

Loads the native module alone, which takes milliseconds. Says what it did after each command.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType


def load_native(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    library, device, name, kind = sys.argv[1:5]
    assert Path(library).exists()
    native = load_native(library)
    tenant = native.Tenant(device=device, name=name, latency=kind == "latency")
    print("ready", flush=True)
    entered = None
    for line in sys.stdin:
        match line.split():
            case ["enter"]:
                entered = tenant.enter()
                print("entered", time.monotonic_ns(), flush=True)
            case ["leave"]:
                tenant.leave(entered)
                print("left", flush=True)
            case ["spin", milliseconds]:
                # Back to back, each of this length, until it is killed.
                print("spinning", flush=True)
                while True:
                    entered = tenant.enter()
                    time.sleep(float(milliseconds) / 1e3)
                    tenant.leave(entered)


if __name__ == "__main__":
    main()
