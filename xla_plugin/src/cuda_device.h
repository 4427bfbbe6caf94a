// A CUDA device and what belongs to it: streams, events, pinned host memory.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "cuda.h"

namespace missile {

// A device with its primary context, which is XLA's too: so each sees the other's memory.
class CudaDevice {
 public:
  // Throws CudaError for a driver that can not be had, std::invalid_argument for a device that
  // there is not. `driver`: see CudaDriver::Open().
  CudaDevice(int ordinal, const std::string& driver);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const CudaDriver& driver() const { return driver_; }
  CudaContext context() const { return context_; }
  int ordinal() const { return ordinal_; }

 private:
  const CudaDriver& driver_;
  const int ordinal_;
  int handle_ = 0;
  CudaContext context_ = nullptr;
};

// The device's context is this thread's while the scope lasts.
class CudaScope {
 public:
  explicit CudaScope(const CudaDevice& device) : driver_(device.driver()) {
    driver_.cuCtxPushCurrent(device.context());
  }
  ~CudaScope() {
    CudaContext popped = nullptr;
    driver_.cuCtxPopCurrent.Try(&popped);
  }
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;

 private:
  const CudaDriver& driver_;
};

// What a destructor gives back, by a call of the driver's. Without its context, as at the end of a
// process, nothing is left to give.
template <typename Call, typename Handle>
void GiveBack(const CudaDevice& device, const Call& call, Handle handle) noexcept {
  CudaContext popped = nullptr;
  if (!device.driver().cuCtxPushCurrent.Try(device.context())) return;
  call.Try(handle);
  device.driver().cuCtxPopCurrent.Try(&popped);
}

// Constructors and destructors of what follows find the context by themselves; all else is called
// within a CudaScope.

// Does not wait for the default stream, nor that for it.
class CudaStream {
 public:
  explicit CudaStream(std::shared_ptr<const CudaDevice> device);
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  const std::shared_ptr<const CudaDevice>& device() const { return device_; }
  CudaStreamHandle handle() const { return handle_; }
  // Waits for what was asked for, as well as it can be: after an error.
  void Drain() const noexcept { device_->driver().cuStreamSynchronize.Try(handle_); }

 private:
  const std::shared_ptr<const CudaDevice> device_;
  CudaStreamHandle handle_ = nullptr;
};

class CudaEvent {
 public:
  explicit CudaEvent(std::shared_ptr<const CudaDevice> device);
  ~CudaEvent();
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  void Record(const CudaStream& stream) const {
    device_->driver().cuEventRecord(handle_, stream.handle());
  }
  // Sleeps until the stream has done what it was asked for before the last Record().
  void Wait() const { device_->driver().cuEventSynchronize(handle_); }

 private:
  const std::shared_ptr<const CudaDevice> device_;
  CudaEventHandle handle_ = nullptr;
};

// Host memory that a device reads and writes by itself. What it holds at first is not defined.
class PinnedMemory {
 public:
  // Throws NoMemory, or std::invalid_argument for no bytes.
  PinnedMemory(std::shared_ptr<const CudaDevice> device, std::size_t size_bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t size_bytes() const { return size_bytes_; }

  // Whether a host address lies in memory that anyone has pinned.
  static bool Holds(const CudaDriver& driver, const void* address);

 private:
  const std::shared_ptr<const CudaDevice> device_;
  const std::size_t size_bytes_;
  void* data_ = nullptr;
};

}  // namespace missile
