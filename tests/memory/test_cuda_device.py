"""CUDA devices and pinned memory, on the fake CUDA driver."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from missile_jax import _native


def test_without_a_driver_the_error_says_how_to_name_one(tmp_path):
    with pytest.raises(RuntimeError, match=r"nowhere.*MISSILE_CUDA_DRIVER"):
        _native.CudaDevice(0, str(tmp_path / "nowhere.so"))


def test_a_library_that_is_no_driver_lacks_a_function():
    with pytest.raises(RuntimeError, match=r"libm.so.6 has no function cuInit"):
        _native.CudaDevice(0, "libm.so.6")


def test_the_environment_names_the_driver(driver):
    program = "from missile_jax import _native; print(_native.CudaDevice(1).ordinal)"
    environment = {**os.environ, "MISSILE_CUDA_DRIVER": driver.path}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert ran.stdout == "1\n", ran.stderr


@pytest.mark.parametrize("ordinal", [-1, 2])
def test_a_device_that_there_is_not_is_refused(driver, ordinal):
    with pytest.raises(ValueError, match=f"no device {ordinal} among 2"):
        driver.device(ordinal)


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("cuInit", 100, r"cuInit: CUDA_ERROR_NO_DEVICE \(no CUDA.*CUDA_VISIBLE_DEVICES"),
        ("cuDeviceGetCount", 700, r"cuDeviceGetCount: CUDA_ERROR_ILLEGAL_ADDRESS.*process anew"),
        ("cuDeviceGet", 101, r"cuDeviceGet: CUDA_ERROR_INVALID_DEVICE"),
        ("cuDevicePrimaryCtxRetain", 12345, r"cuDevicePrimaryCtxRetain: error 12345;"),
    ],
)
def test_a_device_that_does_not_start_says_what_failed(driver, call, code, message):
    driver.fail(call, 1, code)
    with pytest.raises(RuntimeError, match=message):
        driver.device()
    assert driver.leaks() == ""
    assert driver.device().ordinal == 0


@pytest.mark.smoke
def test_pinned_memory_is_a_buffer_that_ends_with_its_last_array(driver):
    device = driver.device()
    memory = device.pinned(1000)
    assert len(memory) == 1000
    array = np.frombuffer(memory, np.float32)
    array[:] = np.arange(250)
    assert array.flags.writeable
    del memory, device
    gc.collect()
    assert "1 pinned allocations" in driver.leaks()
    assert array.sum() == 249 * 125
    del array
    gc.collect()
    assert driver.leaks() == ""


@pytest.mark.parametrize("size_bytes", [0, -1])
def test_pinned_memory_has_bytes(driver, size_bytes):
    with pytest.raises(ValueError, match=f"size_bytes is {size_bytes}"):
        driver.device().pinned(size_bytes)


def test_pinned_memory_that_the_system_refuses_is_a_memory_error(driver):
    device = driver.device()
    driver.fail("cuMemHostAlloc", 1, 2)
    with pytest.raises(MemoryError, match=r"cuMemHostAlloc: CUDA_ERROR_OUT_OF_MEMORY"):
        device.pinned(64)
