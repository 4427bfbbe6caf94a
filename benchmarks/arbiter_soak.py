"""Does the arbiter hold?

Best-effort processes are killed while they have the turn, the arbiter is killed, and tenants write
random bytes to the pages that the arbiter reads. Meanwhile latency-sensitive work comes and looks
how long it takes until it has the device alone. Launches are sleeps: the device is simulated, and
who has it is told by locks of the system, which end with a killed process. A real JAX process, on a
PJRT plugin through the wrapper, uploads and launches past its cap; the wrapper counts its objects.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.arbiter_processes import Child, arbiters
from benchmarks.report import Report
from missile_jax._native import Tenant
from missile_jax.arbiter import tenants

DEVICE = "soak"
LAUNCH_MS = 5.0
# Of the spinning tenants beside the one that is killed.
OTHERS = 2
PATIENCE_S = 30.0
# What is allowed, beside one best-effort launch.
STALL_MS = 100.0
_LS_EVERY_S, _LS_WORK_S = 0.025, 0.004
_CAP_MIB = 256


def run(kills: int, over_cap: int, hostile_s: float, seed: int, wrap: Path | None) -> Report:
    report = Report("arbiter-soak", seed, simulated=True)
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        try:
            _soak(report, Path(folder), kills, over_cap, hostile_s, seed, wrap)
        finally:
            os.environ.clear()
            os.environ.update(before)
            for pid in arbiters(Path(folder)):
                os.kill(pid, signal.SIGKILL)
    return report


def failed(report: Report) -> bool:
    """Whether a target was missed, or something was left."""
    s = report.summary
    return (
        s["ls_stall_ms_max"] > STALL_MS + LAUNCH_MS
        or s["grant_back_ms_max"] > STALL_MS
        or any(s[key] for key in ("descriptors_left", "maps_left", "tenants_left", "arbiters_left"))
        or any(left for key, left in s.items() if key.startswith("objects_left."))
        or s["over_cap_refused"] != s["over_cap"]
    )


def _soak(
    report: Report, folder: Path, kills: int, over_cap: int, hostile_s: float, seed: int,
    wrap: Path | None,
) -> None:  # fmt: skip
    device = folder / "device"
    device.touch()
    process = psutil.Process()
    latency = Tenant(device=DEVICE, name="latency", latency=True)
    before = process.num_fds(), len(process.memory_maps(grouped=False))
    phases: list[_Watch] = []

    def phase(what: str, act: Callable[[_Watch], dict[str, Any]]) -> dict[str, Any]:
        with _latency(latency, device) as watch:
            found = act(watch)
        watch.what = what
        phases.append(watch)
        stalls = np.array(watch.stalls_ms)
        report.rows.append({
            "what": what, "ls_requests": len(stalls), "stall_p50_ms": float(np.median(stalls)),
            "stall_p99_ms": float(np.percentile(stalls, 99)), "stall_max_ms": float(stalls.max()),
            "slipped": watch.slipped, **found,
        })  # fmt: skip
        return found

    spinning = [Child(DEVICE, f"other {k}") for k in range(OTHERS)]
    try:
        for one in spinning:
            one.say(f"spin {LAUNCH_MS} {device}")
            one.hear("spinning")
        calm = phase("nothing", _share_of_leftover)
        killed = phase("best effort killed", lambda watch: _kill_holders(kills, watch))
        lost = phase("arbiter killed", lambda watch: _kill_arbiters(kills, latency, watch))
        hostile = phase("hostile bytes", lambda _: _hostile(folder, hostile_s, seed))
        cap = {"over_cap": 0, "refused": 0, "made": {}, "left": {}}
        if over_cap:
            cap = phase("past its cap", lambda _: _past_cap(over_cap, wrap))
    finally:
        for one in spinning:
            one.close()
    _until(lambda: len(tenants(DEVICE) or ()) == 1, "the tenants that were killed to be gone")
    maps = len(process.memory_maps(grouped=False))
    stalls = np.concatenate([watch.stalls_ms for watch in phases])
    report.summary = {
        "ls_requests": len(stalls),
        "ls_stall_ms_max": float(stalls.max()),
        "ls_stall_ms_p99": float(np.percentile(stalls, 99)),
        "ls_enter_us_max": max(watch.enter_us for watch in phases),
        "be_launch_ms": LAUNCH_MS,
        "be_share_of_leftover": calm["be_share_of_leftover"],
        "be_killed": killed["killed"],
        "grant_back_ms_max": killed["grant_back_ms_max"],
        "arbiter_killed": lost["killed"],
        "arbiter_back_ms_max": lost["back_ms_max"],
        "hostile_pages": hostile["written"],
        "over_cap": cap["over_cap"],
        "over_cap_refused": cap["refused"],
        **{f"objects_{key}.{kind}": n for key in ("made", "left") for kind, n in cap[key].items()},
        "tenants_left": len(tenants(DEVICE) or ()) - 1,
        "arbiters_left": len(arbiters(folder)) - 1,
        "descriptors_left": max(0, process.num_fds() - before[0]),
        "maps_left": max(0, maps - before[1] - _NOISE_MAPS),
    }


# Python and the C heap map some while they run; a page of a tenant that is left behind, for each
# of hundreds, is more.
_NOISE_MAPS = 40


@dataclass(slots=True)
class _Watch:
    """What latency-sensitive work saw. slipped: launches that others began while it was there."""

    what: str = ""
    stalls_ms: list[float] = field(default_factory=list)
    slipped: int = 0
    enter_us: float = 0.0

    def await_more(self, requests: int) -> None:
        """Until so many more have come and gone."""
        done = len(self.stalls_ms) + requests
        _until(lambda: len(self.stalls_ms) >= done, "latency-sensitive work to be done")


@contextmanager
def _latency(tenant: Tenant, device: Path) -> Iterator[_Watch]:
    """Latency-sensitive work that comes again and again, until the end of the context."""
    watch, stop = _Watch(), threading.Event()

    def work() -> None:
        with open(device) as held:
            while not stop.wait(_LS_EVERY_S):
                start = time.monotonic()
                entered = tenant.enter()
                assert entered is not None
                watch.enter_us = max(watch.enter_us, (time.monotonic() - start) * 1e6)
                # Exclusive: granted once no best-effort launch holds the device.
                fcntl.flock(held, fcntl.LOCK_EX)
                watch.stalls_ms.append((time.monotonic() - start) * 1e3)
                fcntl.flock(held, fcntl.LOCK_UN)
                time.sleep(_LS_WORK_S)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    watch.slipped += 1
                fcntl.flock(held, fcntl.LOCK_UN)
                tenant.leave(entered)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def _share_of_leftover(watch: _Watch) -> dict[str, Any]:
    """How much of the time that latency-sensitive work leaves best-effort launches take."""
    before, start_ns = _busy_ns(), time.monotonic_ns()
    watch.await_more(50)
    after, elapsed_ns = _busy_ns(), time.monotonic_ns() - start_ns
    left_ns = elapsed_ns - (after[True] - before[True])
    return {"be_share_of_leftover": (after[False] - before[False]) / left_ns}


def _busy_ns() -> dict[bool, int]:
    """Of latency-sensitive tenants, and of the others."""
    found = tenants(DEVICE) or ()
    return {kind: sum(t.busy_ns for t in found if t.latency == kind) for kind in (True, False)}


def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(0.001)


def _kill_holders(kills: int, watch: _Watch) -> dict[str, Any]:
    """How long after a holder is killed another tenant, which waits, has the turn."""
    back_ms = []
    waiting = Tenant(device=DEVICE, name="next", weight=1000.0)
    for k in range(kills):
        child = Child(DEVICE, f"victim {k}")
        child.say("enter")
        child.hear("entered")  # It has the turn, and a launch in flight.
        with ThreadPoolExecutor(1) as pool:
            entered = pool.submit(_turn_s, waiting)
            _until(
                lambda entered=entered: waiting.stats()["wanting"] == 1 or entered.done(),
                "a tenant to wait",
            )
            start = time.monotonic()
            child.kill()
            waited_s = entered.result() - start
        # Negative: patience with it was over before it was killed, where the machine was slow.
        if waited_s > 0:
            back_ms.append(waited_s * 1e3)
        watch.await_more(2)
        child.close()
    return {"killed": kills, "counted": len(back_ms), "grant_back_ms_max": max(back_ms)}


def _turn_s(tenant: Tenant) -> float:
    """When it had its turn."""
    entered = tenant.enter(PATIENCE_S)
    now = time.monotonic()
    assert entered is not None
    tenant.leave(entered)
    return now


def _kill_arbiters(kills: int, latency: Tenant, watch: _Watch) -> dict[str, Any]:
    """How long after the arbiter is killed all its tenants have another one."""
    back_ms = []
    for _ in range(kills):
        pid, start = latency.arbiter_pid, time.monotonic()
        os.kill(pid, signal.SIGKILL)
        _until(
            lambda pid=pid: (
                latency.connected
                and latency.arbiter_pid != pid
                and len(tenants(DEVICE) or ()) == 1 + OTHERS
            ),
            "another arbiter and its tenants",
        )
        back_ms.append((time.monotonic() - start) * 1e3)
        watch.await_more(2)
    return {"killed": kills, "back_ms_max": max(back_ms)}


def _hostile(folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Tenants of both classes whose pages are random bytes, over and over."""
    rng, written = np.random.default_rng(seed), 0
    pages = []
    for latency in (0, 1):
        page = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
        os.ftruncate(page, PAGE_BYTES)
        os.pwrite(page, struct.pack("<IId64s", TENANT_MAGIC, latency, 1.0, b"hostile"), 0)
        fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(folder / "missile" / f"{DEVICE}.sock"))
        bell = os.eventfd(0)
        hello = struct.pack("<IIq", WIRE_MAGIC, 1, time.monotonic_ns())
        socket.send_fds(connection, [hello], [page, bell])
        _, files, *_ = socket.recv_fds(connection, 4096, 4)
        pages.append((connection, mmap.mmap(page, PAGE_BYTES), page, bell, files))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _, view, _, bell, _ in pages:
            view[:] = rng.bytes(PAGE_BYTES)
            os.eventfd_write(bell, 1)
            written += 1
        time.sleep(0.0005)
    for connection, view, page, bell, files in pages:
        view.close()
        connection.close()
        for file in (page, bell, *files):
            os.close(file)
    return {"written": written}


# As page.h and wire.h have them.
PAGE_BYTES, TENANT_MAGIC, WIRE_MAGIC = 256, 0x324E544D, 0x3157414D


def _past_cap(times: int, wrap: Path | None) -> dict[str, Any]:
    missile = Path(sys.executable).with_name("missile")
    wrapped = () if wrap is None else ("--wrap", str(wrap))
    limits = ("--memory", f"{_CAP_MIB}MiB", "--device", DEVICE, *wrapped)
    program = Path(__file__).with_name("arbiter_greedy.py")
    done = subprocess.run(
        [missile, "run", *limits, program, str(times), str(_CAP_MIB * 2**20)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "MISSILE_PJRT_STATISTICS": "1"},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the process with a cap failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
