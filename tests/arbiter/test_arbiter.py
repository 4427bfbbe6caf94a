"""The arbiter's process, tenants in others, and what becomes of turns when any of them is lost."""

import ctypes
import fcntl
import mmap
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import arbiter_child
from benchmarks.arbiter_processes import arbiters
from missile_jax import _native
from missile_jax._native import Tenant, arbiter_folder, arbiter_limits, arbiter_tenants

ARBITER = Path(_native.__file__).with_name("missile-arbiter")
LIMITS = arbiter_limits()
LONG_S = 30.0


def await_(holds, what="it never came to hold"):
    """Looks until it holds; other processes do not tell when they have ended."""
    end = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_first_tenant_starts_it_and_all_find_the_same(folder):
    assert arbiter_tenants("d") is None
    one, two = Tenant(device="d", name="one", weight=2.0), Tenant(device="d", name="two")
    other = Tenant(device="other", name="three")
    assert one.arbiter_pid == two.arbiter_pid != other.arbiter_pid
    rows = arbiter_tenants("d")
    assert [(r["name"], r["latency"], r["weight"], r["pid"]) for r in rows] == [
        ("one", False, 2.0, os.getpid()),
        ("two", False, 1.0, os.getpid()),
    ]
    assert arbiter_folder() == str(folder)


def test_it_is_this_user_s_alone(folder):
    tenant = Tenant(device="d", name="one")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "d.sock").stat().st_mode) == 0o600
    assert tenant.connected


# Of another user, who finds the socket's folder open: its directory is what it starts in.
FOREIGN = """
import fcntl, os, socket, struct, sys, time
if uid := int(sys.argv[1]):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
page = os.memfd_create("foreign", os.MFD_ALLOW_SEALING)
os.ftruncate(page, 256)
os.pwrite(page, bytes.fromhex(sys.argv[2]), 0)
fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect("d.sock")
hello = struct.pack("<IIq", int(sys.argv[3]), 1, time.monotonic_ns())
try:
    socket.send_fds(connection, [hello], [page, os.eventfd(0)])
    data, files, *_ = socket.recv_fds(connection, 4096, 4)
except (BrokenPipeError, ConnectionResetError):
    data, files = b"", []
print(os.getuid(), len(data) > 0, len(files))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_not_let_in_even_where_the_socket_is_open(folder):
    tenant = Tenant(device="d", name="one")
    folder.chmod(0o755)
    (folder / "d.sock").chmod(0o666)

    def joins(uid: int) -> list[str]:
        ran = subprocess.run(
            [sys.executable, "-S", "-c", FOREIGN, str(uid), header(0, 1.0).hex(), str(WIRE)],
            cwd=folder, capture_output=True, text=True, check=True, timeout=LONG_S,
        )  # fmt: skip
        return ran.stdout.split()

    assert joins(0) == ["0", "True", "1"]
    assert joins(65534) == ["65534", "False", "0"]
    folder.chmod(0o700)
    await_(lambda: [row["name"] for row in arbiter_tenants("d")] == ["one"])
    tenant.leave(tenant.enter())


def test_a_folder_that_others_may_enter_is_refused(folder):
    folder.mkdir(mode=0o755)
    with pytest.raises(RuntimeError, match="must be a folder of this user with mode 0700"):
        Tenant(device="d", name="one")


def test_a_link_is_no_folder(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeError, match="and no link"):
        Tenant(device="d", name="one")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "../d", "name": "a"}, "a device is named by"),
        ({"device": "d", "name": ""}, "name has 1 to 63"),
        ({"device": "d", "name": "a" * 64}, "name has 1 to 63"),
        ({"device": "d", "name": "a", "weight": 0.0}, "weight must be 0.001 to 1000, got 0"),
        ({"device": "d", "name": "a", "weight": float("nan")}, "weight must be 0.001 to 1000"),
        ({"device": "d", "name": "a", "most_in_flight": 0}, "most_in_flight must be 1 to 1024"),
    ],
)
def test_what_is_not_allowed_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        Tenant(**options)


def test_without_a_program_to_start_there_is_an_error():
    with pytest.raises(RuntimeError, match="/nowhere could not be started"):
        Tenant(device="d", name="one", program="/nowhere")


def test_it_ends_when_it_has_been_idle(folder):
    ran = subprocess.run([ARBITER, "d", "0.05"], capture_output=True, text=True, timeout=LONG_S)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not (folder / "d.sock").exists()


def test_a_second_one_of_a_device_leaves_it_to_the_first():
    tenant = Tenant(device="d", name="one")
    ran = subprocess.run([ARBITER, "d"], capture_output=True, text=True, timeout=LONG_S)
    assert (ran.returncode, ran.stderr) == (0, "another arbiter serves device 'd'\n")
    assert tenant.connected


@pytest.mark.parametrize(
    "arguments", [(), ("d", "-1"), ("d", "1", "2"), ("--detach",), ("--detach", "f")]
)
def test_it_says_how_it_is_used(arguments):
    ran = subprocess.run([ARBITER, *arguments], capture_output=True, text=True, timeout=LONG_S)
    assert ran.returncode == 2
    assert ran.stderr


def test_launches_go_and_are_counted():
    tenant = Tenant(device="d", name="one")
    for _ in range(100):
        tenant.leave(tenant.enter())
    stats = tenant.stats()
    assert stats["launches"] == 100
    assert stats["in_flight"] == stats["wanting"] == 0
    assert stats["waits"] <= 2  # The first one, and once more if the machine was slow.
    (row,) = arbiter_tenants("d")
    assert (row["launches"], row["holds"]) == (100, True)


def test_latency_holds_best_effort_back_and_never_waits():
    latency, effort = Tenant(device="d", name="ls", latency=True), Tenant(device="d", name="be")
    running = effort.enter()
    announced = latency.enter()  # Beside the launch in flight.
    effort.leave(running)
    await_(lambda: not any(row["holds"] for row in arbiter_tenants("d")))
    assert effort.enter(timeout_s=0.1) is None
    second = latency.enter()
    latency.leave(announced)
    assert effort.enter(timeout_s=0.05) is None  # Another one is there.
    latency.leave(second)
    assert effort.enter(timeout_s=LONG_S) is not None
    assert latency.stats()["waits"] == 0


def test_one_best_effort_launch_at_a_time():
    one, two = Tenant(device="d", name="one"), Tenant(device="d", name="two")
    inside, most = [0], [0]
    lock, ran = threading.Lock(), [0, 0]

    def launch(k, tenant):
        for _ in range(100):
            entered = tenant.enter()
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                ran[k] += 1
            time.sleep(0.0005)
            with lock:
                inside[0] -= 1
            tenant.leave(entered)

    threads = [threading.Thread(target=launch, args=x) for x in enumerate((one, two, one))]
    for thread in threads[:2]:
        thread.start()
    for thread in threads[:2]:
        thread.join()
    assert most[0] == 1
    assert ran == [100, 100]


def test_launches_of_one_tenant_are_bounded_and_those_within_one_are_part_of_it():
    tenant = Tenant(device="d", name="one", most_in_flight=2)
    first, second = tenant.enter(), tenant.enter(nests=True)
    within = tenant.enter(timeout_s=LONG_S)
    assert within is not None
    for entered, nests in ((within, False), (second, True)):
        tenant.leave(entered, nests=nests)
    third = tenant.enter()
    assert tenant.enter(timeout_s=0.02) is None
    waiting = threading.Thread(target=lambda: tenant.leave(tenant.enter()))
    waiting.start()
    await_(lambda: tenant.stats()["wanting"] == 1)
    tenant.leave(first)
    waiting.join(LONG_S)
    assert not waiting.is_alive()
    tenant.leave(third)


def test_a_launch_within_one_goes_without_a_turn_before_long():
    # What waits for the turn to come back may be what the launch around it waits for.
    latency, effort = Tenant(device="d", name="ls", latency=True), Tenant(device="d", name="be")
    outer = effort.enter(nests=True)
    announced = latency.enter()
    await_(lambda: not any(row["holds"] for row in arbiter_tenants("d")))
    within = effort.enter(timeout_s=1.0)  # Before the claim would lapse.
    assert within is not None
    assert latency.stats()["in_flight"] == 1
    for entered, nests in ((within, False), (outer, True)):
        effort.leave(entered, nests=nests)
    assert effort.enter(timeout_s=0.1) is None
    latency.leave(announced)


def test_a_killed_holder_s_turn_goes_to_the_next(child):
    dead, latency = child("d", "dead"), Tenant(device="d", name="ls", latency=True)
    effort = Tenant(device="d", name="be")
    dead.say("enter")
    dead.hear("entered")
    assert effort.enter(timeout_s=0.02) is None
    dead.kill()
    entered = effort.enter(timeout_s=LONG_S)
    assert entered is not None
    assert [row["name"] for row in arbiter_tenants("d")] == ["ls", "be"]
    assert latency.connected


def test_a_killed_latency_tenant_holds_nobody_back(child):
    dead, effort = child("d", "dead", "latency"), Tenant(device="d", name="be")
    dead.say("enter")
    dead.hear("entered")
    assert effort.enter(timeout_s=0.02) is None
    dead.kill()
    assert effort.enter(timeout_s=LONG_S) is not None


def test_a_stopped_holder_s_turn_goes_to_the_next_and_it_has_none_when_it_goes_on(child):
    stopped, effort = child("d", "stopped"), Tenant(device="d", name="be")
    stopped.say(f"spin 2 {__file__}")
    stopped.hear("spinning")
    await_(lambda: arbiter_tenants("d")[0]["launches"] > 0)
    stopped.kill(signal.SIGSTOP)
    entered = effort.enter(timeout_s=LONG_S)
    assert entered is not None
    launches = arbiter_tenants("d")[0]["launches"]
    stopped.kill(signal.SIGCONT)
    await_(lambda: arbiter_tenants("d")[0]["wanting"] == 1)
    # What it had in flight, and no further one.
    assert arbiter_tenants("d")[0]["launches"] <= launches + 1
    effort.leave(entered)
    await_(lambda: arbiter_tenants("d")[0]["launches"] > launches + 1)


def test_tenants_of_a_killed_arbiter_find_another_and_what_they_do_goes_on(child):
    latency, effort = Tenant(device="d", name="ls", latency=True), Tenant(device="d", name="be")
    other = child("d", "other")
    for _ in range(3):
        announced = latency.enter()
        first = latency.arbiter_pid
        os.kill(first, signal.SIGKILL)
        latency.leave(latency.enter())
        await_(lambda first=first: latency.connected and latency.arbiter_pid != first)
        await_(lambda: effort.connected and effort.arbiter_pid == latency.arbiter_pid)
        await_(lambda: len(arbiter_tenants("d") or ()) == 3)
        # The new one knows of the launch that was announced to the old one.
        assert effort.enter(timeout_s=0.05) is None
        latency.leave(announced)
        entered = effort.enter(timeout_s=LONG_S)
        assert entered is not None
        effort.leave(entered)
    assert other.process.poll() is None
    assert len(arbiters(Path(os.environ["XDG_RUNTIME_DIR"]))) == 1


def test_another_arbiter_is_where_the_first_was_whatever_the_environment_says_now(
    folder, tmp_path, monkeypatch
):
    tenant = Tenant(device="d", name="one")
    first = tenant.arbiter_pid
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "elsewhere"))
    os.kill(first, signal.SIGKILL)
    await_(lambda: tenant.connected and tenant.arbiter_pid != first)
    os.kill(tenant.arbiter_pid, signal.SIGKILL)
    assert not (tmp_path / "elsewhere" / "missile").exists()


def test_without_an_arbiter_latency_goes_on_and_best_effort_within_its_own_limit(tmp_path):
    program = tmp_path / "start"
    program.write_text(f'#!/bin/sh\nexec {ARBITER} "$@"\n')
    program.chmod(0o700)
    options = {"device": "d", "program": str(program)}
    latency = Tenant(name="ls", latency=True, **options)
    effort = Tenant(name="be", **options)
    program.write_text("#!/bin/sh\nexit 1\n")
    announced = latency.enter()
    os.kill(latency.arbiter_pid, signal.SIGKILL)
    await_(lambda: not (latency.connected or effort.connected))
    latency.leave(latency.enter())
    entered = effort.enter(timeout_s=LONG_S)
    assert entered is not None
    assert effort.enter(timeout_s=0.02) is None
    effort.leave(entered)
    latency.leave(announced)
    program.write_text(f'#!/bin/sh\nexec {ARBITER} "$@"\n')
    await_(lambda: latency.connected and effort.connected)


def test_a_stopped_arbiter_holds_nobody_back_for_long():
    latency, effort = Tenant(device="d", name="ls", latency=True), Tenant(device="d", name="be")
    entered = effort.enter()
    effort.leave(entered)
    os.kill(effort.arbiter_pid, signal.SIGSTOP)
    try:
        latency.leave(latency.enter())
        waits = effort.stats()["waits"]
        while effort.stats()["waits"] == waits:  # Its turn ends by itself.
            entered = effort.enter(timeout_s=LONG_S)
            assert entered is not None
            effort.leave(entered)
    finally:
        os.kill(effort.arbiter_pid, signal.SIGCONT)


def test_a_silent_latency_claim_ends(child):
    silent, effort = child("d", "silent", "latency"), Tenant(device="d", name="be")
    silent.say("enter")
    silent.hear("entered")
    silent.kill(signal.SIGSTOP)
    since_ns = time.monotonic_ns()
    assert effort.enter(timeout_s=LONG_S) is not None
    assert time.monotonic_ns() - since_ns > LIMITS["claim_ns"] / 2


# What is shared, seen from a tenant that plays foul. The layout is that of page.h.
PAGE_BYTES, IN_FLIGHT, WANTING, STAMP = 256, 128, 132, 136
MAGIC, WIRE = 0x324E544D, 0x3157414D


def foul_page(fill: bytes = b"", seal: bool = True, size: int = PAGE_BYTES) -> int:
    page = os.memfd_create("foul", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(page, size)
    os.pwrite(page, fill, 0)
    if seal:
        fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return page


def header(latency: int, weight: float, name: bytes = b"foul") -> bytes:
    return struct.pack("<IId64s", MAGIC, latency, weight, name)


def join(folder, page, now_ns=None, files=None):
    """A connection, what was answered to it, and the file that came with that."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(LONG_S)
    connection.connect(str(folder / "d.sock"))
    hello = struct.pack("<IIq", WIRE, 1, time.monotonic_ns() if now_ns is None else now_ns)
    bell = os.eventfd(0)
    socket.send_fds(connection, [hello], [page, bell] if files is None else files)
    data, came, *_ = socket.recv_fds(connection, 4096, 4)
    os.close(bell)
    _, slot, generation = struct.unpack_from("<III", data)
    return connection, data[12:].rstrip(b"\0").decode(), slot, generation, came


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (lambda: foul_page(header(0, 1.0), seal=False), "its page is no memfd of 256 bytes"),
        (lambda: foul_page(header(0, 1.0), size=100), "its page is no memfd of 256 bytes"),
        (lambda: os.open("/dev/zero", os.O_RDWR), "its page is no memfd of 256 bytes"),
        (lambda: foul_page(), "its page has another version"),
        (lambda: foul_page(header(0, float("nan"))), "its weight must be 0.001 to 1000, got"),
        (lambda: foul_page(header(0, 1e9)), "its weight must be 0.001 to 1000, got"),
    ],
)
def test_a_page_that_may_not_be_read_is_refused(folder, page, said):
    tenant = Tenant(device="d", name="one")
    opened = page()
    connection, refusal, _, _, came = join(folder, opened)
    assert refusal.startswith(said)
    assert came == []
    connection.close()
    os.close(opened)
    tenant.leave(tenant.enter())
    assert len(arbiter_tenants("d")) == 1


def test_another_clock_and_other_files_are_refused(folder):
    tenant, page = Tenant(device="d", name="one"), foul_page(header(0, 1.0))
    ordinary = os.open(__file__, os.O_RDONLY)
    for now_ns, files, said in (
        (0, None, "its monotonic clock"),
        (None, [page], "it sent another number of files"),
        (None, [page, ordinary], "arbiter: epoll_ctl"),
    ):
        connection, refusal, *_ = join(folder, page, now_ns, files)
        assert refusal.startswith(said)
        connection.close()
    for file in (page, ordinary):
        os.close(file)
    assert tenant.connected


@pytest.mark.parametrize("data", [b"", b"\0" * 16, b"x" * 4000])
def test_a_greeting_that_is_none_ends_the_connection(folder, data):
    tenant = Tenant(device="d", name="one")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(LONG_S)
    connection.connect(str(folder / "d.sock"))
    connection.send(data)
    assert connection.recv(100) == b""
    connection.close()
    tenant.leave(tenant.enter())


def test_its_page_can_only_be_read(folder):
    _keeps = Tenant(device="d", name="one")
    connection, refusal, _, generation, (page,) = join(folder, mine := foul_page(header(0, 1.0)))
    assert refusal == ""
    assert generation > 0
    size = os.fstat(page).st_size
    with pytest.raises(PermissionError):
        mmap.mmap(page, size, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.pwrite(page, b"!", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(page, 0)
    # Not even a mapping to read becomes one to write.
    seen = mmap.mmap(page, size, prot=mmap.PROT_READ)
    libc = ctypes.CDLL(None, use_errno=True)
    at = np.frombuffer(seen, np.uint8)
    address = ctypes.c_void_p(at.ctypes.data)
    assert libc.mprotect(address, ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE) == -1
    del at
    seen.close()
    for file in (page, mine):
        os.close(file)
    connection.close()


def test_hostile_bytes_in_a_page_hurt_nobody_else(folder):
    latency, effort = Tenant(device="d", name="ls", latency=True), Tenant(device="d", name="be")
    rng = np.random.default_rng(0)
    joined = []
    for kind in (0, 1):
        page = foul_page(header(kind, 1.0, b"\x1b[2J\xff" * 12))
        joined.append((page, *join(folder, page)))
    for _ in range(200):
        for page, *_ in joined:
            os.pwrite(page, rng.bytes(PAGE_BYTES), 0)
        # The one that claims to be at work has a stamp that is nearly always of another time.
        os.pwrite(joined[1][0], struct.pack("<q", 2**62), STAMP)
        latency.leave(latency.enter())
        entered = effort.enter(timeout_s=LONG_S)
        assert entered is not None
        effort.leave(entered)
    names = [row["name"] for row in arbiter_tenants("d")]
    assert names[:2] == ["ls", "be"]
    assert names[2] == names[3] == "?[2J?" * 12
    for page, connection, _, _, _, (other,) in joined:
        connection.close()
        os.close(page)
        os.close(other)
    await_(lambda: len(arbiter_tenants("d")) == 2)


def test_tenants_come_and_go_without_a_trace(folder):
    keeps = Tenant(device="d", name="keeps")
    pid = keeps.arbiter_pid

    def files():
        return len(os.listdir(f"/proc/{pid}/fd"))

    def maps():
        return len(Path(f"/proc/{pid}/maps").read_text().splitlines())

    mine = len(os.listdir("/proc/self/fd"))
    before = files(), maps()
    for k in range(150):  # More than there are slots.
        tenant = Tenant(device="d", name=f"t{k}")
        tenant.leave(tenant.enter())
        del tenant
    await_(lambda: len(arbiter_tenants("d")) == 1)
    await_(lambda: (files(), maps()) == before)
    assert len(os.listdir("/proc/self/fd")) == mine
    assert alive(pid)


def test_too_many_tenants_are_refused(folder):
    keeps = Tenant(device="d", name="keeps")
    tenants = [Tenant(device="d", name="many") for _ in range(127)]
    with pytest.raises(ValueError, match="there are 128 tenants, no more are allowed"):
        Tenant(device="d", name="one more")
    tenants.pop()
    await_(lambda: len(arbiter_tenants("d")) == 127)
    Tenant(device="d", name="one more")
    assert keeps.connected


def test_threads_may_be_of_the_idle_class_and_the_arbiter_is_not(child, folder):
    code = (
        "import sys, os, threading; sys.path.insert(0, sys.argv[2]);"
        "from arbiter_child import load_native; native = load_native(sys.argv[1]);"
        "t = native.Tenant(device='d', name='be', idle_threads=True);"
        "new = []; thread = threading.Thread(target=lambda: new.append(os.sched_getscheduler(0)));"
        "thread.start(); thread.join();"
        "print(os.sched_getscheduler(0), new[0], os.sched_getscheduler(t.arbiter_pid))"
    )
    here = str(Path(arbiter_child.__file__).parent)
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code, _native.__file__, here],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.split() == [str(os.SCHED_IDLE), str(os.SCHED_IDLE), str(os.SCHED_OTHER)]


def test_what_yields_launches_beside_latency_and_by_weight(child, folder, tmp_path):
    latency, effort = Tenant(device="d", name="ls", latency=True), Tenant(device="d", name="be")
    announced = latency.enter()
    (tmp_path / "one").touch()
    yielding = [child("d", "1", "idle", 1.0), child("d", "4", "idle", 4.0)]
    for one in yielding:
        one.say(f"spin 1 {tmp_path / 'one'}")
        one.hear("spinning")
    started = {row["name"]: row["launches"] for row in arbiter_tenants("d")}
    assert effort.enter(timeout_s=1.0) is None  # It does not yield, and so it waits.
    rows = {row["name"]: row for row in arbiter_tenants("d")}
    launches = {name: rows[name]["launches"] - started[name] for name in "14"}
    assert launches["1"] > 20
    assert 2.5 < launches["4"] / launches["1"] < 6.0
    assert rows["1"]["waits"] > 5
    latency.leave(announced)


def test_of_two_that_yield_neither_waits(child, tmp_path):
    (tmp_path / "one").touch()
    yielding = [child("d", name, "idle") for name in "ab"]
    for one in yielding:
        one.say(f"spin 1 {tmp_path / 'one'}")
        one.hear("spinning")
    time.sleep(0.5)
    for row in arbiter_tenants("d"):
        assert row["launches"] > 100
        assert row["waits"] <= 3  # The first, and another if the machine was slow.
