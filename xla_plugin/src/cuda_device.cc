#include "cuda_device.h"

#include <cstdint>
#include <stdexcept>
#include <utility>

namespace missile {
namespace {

// cuda.h's numbers.
constexpr unsigned kNonBlockingStream = 1;
constexpr unsigned kBlockingSyncWithoutTiming = 1 | 2;
constexpr unsigned kPortable = 1;
constexpr int kMemoryType = 2;
constexpr unsigned kHostMemory = 1;

}  // namespace

CudaDevice::CudaDevice(int ordinal, const std::string& driver)
    : driver_(CudaDriver::Open(driver)), ordinal_(ordinal) {
  int count = 0;
  driver_.cuDeviceGetCount(&count);
  if (ordinal < 0 || ordinal >= count) {
    throw std::invalid_argument("cuda: there is no device " + std::to_string(ordinal) + " among " +
                                std::to_string(count) +
                                ": see nvidia-smi and CUDA_VISIBLE_DEVICES");
  }
  driver_.cuDeviceGet(&handle_, ordinal);
  driver_.cuDevicePrimaryCtxRetain(&context_, handle_);
}

CudaDevice::~CudaDevice() { driver_.cuDevicePrimaryCtxRelease.Try(handle_); }

CudaStream::CudaStream(std::shared_ptr<const CudaDevice> device) : device_(std::move(device)) {
  const CudaScope scope(*device_);
  device_->driver().cuStreamCreate(&handle_, kNonBlockingStream);
}

CudaStream::~CudaStream() { GiveBack(*device_, device_->driver().cuStreamDestroy, handle_); }

CudaEvent::CudaEvent(std::shared_ptr<const CudaDevice> device) : device_(std::move(device)) {
  const CudaScope scope(*device_);
  device_->driver().cuEventCreate(&handle_, kBlockingSyncWithoutTiming);
}

CudaEvent::~CudaEvent() { GiveBack(*device_, device_->driver().cuEventDestroy, handle_); }

PinnedMemory::PinnedMemory(std::shared_ptr<const CudaDevice> device, std::size_t size_bytes)
    : device_(std::move(device)), size_bytes_(size_bytes) {
  if (size_bytes == 0) throw std::invalid_argument("pinned: size_bytes is 0, and must be positive");
  const CudaScope scope(*device_);
  device_->driver().cuMemHostAlloc(&data_, size_bytes, kPortable);
}

PinnedMemory::~PinnedMemory() { GiveBack(*device_, device_->driver().cuMemFreeHost, data_); }

bool PinnedMemory::Holds(const CudaDriver& driver, const void* address) {
  unsigned type = 0;
  return driver.cuPointerGetAttribute.Try(&type, kMemoryType,
                                          reinterpret_cast<std::uintptr_t>(address)) &&
         type == kHostMemory;
}

}  // namespace missile
