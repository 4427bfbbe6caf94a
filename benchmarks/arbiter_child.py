"""A tenant in a process of its own: `arbiter_child.py LIBRARY DEVICE NAME CLASS WEIGHT`.

CLASS is `latency`, `best_effort`, or `idle`: best-effort, with threads that yield. LIBRARY is the
native module, which is loaded alone: that takes milliseconds. Commands are lines: `enter`, `leave`,
and `spin MS FILE`, which launches back to back until the process is killed. Such a launch is a
sleep that holds a shared lock on the file, which ends with the process.
"""

import fcntl
import importlib.util
import sys
import time
from types import ModuleType


def load_native(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    library, device, name, kind, weight = sys.argv[1:]
    native = load_native(library)
    tenant = native.Tenant(
        device=device, name=name, latency=kind == "latency", idle_threads=kind == "idle",
        weight=float(weight),
    )  # fmt: skip
    print("ready", flush=True)
    entered = None
    for line in sys.stdin:
        match line.split():
            case ["enter"]:
                entered = tenant.enter()
                print("entered", flush=True)
            case ["leave"]:
                tenant.leave(entered)
                print("left", flush=True)
            case ["spin", milliseconds, path]:
                print("spinning", flush=True)
                with open(path) as held:
                    while True:
                        entered = tenant.enter()
                        fcntl.flock(held, fcntl.LOCK_SH)
                        time.sleep(float(milliseconds) / 1e3)
                        fcntl.flock(held, fcntl.LOCK_UN)
                        tenant.leave(entered)


if __name__ == "__main__":
    main()
