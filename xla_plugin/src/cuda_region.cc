#include "cuda_region.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "no_memory.h"

namespace missile {
namespace {

constexpr std::uint64_t kScratchBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kLargest = std::uint64_t{1} << 56;

constexpr std::uint64_t StartIn(std::uint64_t address) {
  return (address + kRegionAlignment - 1) / kRegionAlignment * kRegionAlignment;
}

}  // namespace

CudaRegion::CudaRegion(std::shared_ptr<const CudaDevice> device, std::uint64_t size_bytes)
    : Region(size_bytes, {kDLCUDA, device->ordinal()}),
      device_(std::move(device)),
      stream_(device_),
      moved_(device_) {
  if (size_bytes > kLargest) {
    throw NoMemory("arena: " + std::to_string(size_bytes) + " bytes is more than any GPU has");
  }
  const CudaScope scope(*device_);
  device_->driver().cuMemAlloc(&allocation_, size_bytes + kScratchBytes + kRegionAlignment);
  start_ = StartIn(allocation_);
  scratch_ = start_ + size_bytes;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the driver counts addresses, tensors point.
  base_ = reinterpret_cast<std::byte*>(start_);
}

CudaRegion::~CudaRegion() { GiveBack(*device_, device_->driver().cuMemFree, allocation_); }

template <typename Enqueued>
void CudaRegion::Run(const Enqueued& enqueue) {
  const std::lock_guard<std::mutex> lock(moving_);
  const CudaScope scope(*device_);
  try {
    enqueue();
    moved_.Record(stream_);
    moved_.Wait();
  } catch (...) {
    stream_.Drain();
    throw;
  }
}

void CudaRegion::MoveDown(std::uint64_t to, std::uint64_t from, std::uint64_t size_bytes) {
  Run([&] { Enqueue(start_ + to, start_ + from, size_bytes); });
}

void CudaRegion::Copy(const std::vector<CopyRange>& ranges) {
  const auto& copy = device_->driver().cuMemcpyDtoDAsync;
  Run([&] {
    for (const CopyRange& range : ranges) {
      copy(start_ + range.to, start_ + range.from, range.size_bytes, stream_.handle());
    }
  });
}

// The driver copies between ranges that do not overlap. So bytes that slide by less than their own
// size go in steps, one after another: each as long as the slide, or through the scratch.
void CudaRegion::Enqueue(CudaAddress to, CudaAddress from, std::uint64_t size_bytes) const {
  const auto& copy = device_->driver().cuMemcpyDtoDAsync;
  const std::uint64_t slide = from - to;
  const bool direct = slide >= std::min(kScratchBytes, size_bytes);
  const std::uint64_t longest = direct ? slide : kScratchBytes;
  for (std::uint64_t done = 0; done < size_bytes; done += longest) {
    const std::uint64_t step = std::min(longest, size_bytes - done);
    if (direct) {
      copy(to + done, from + done, step, stream_.handle());
    } else {
      copy(scratch_, from + done, step, stream_.handle());
      copy(to + done, scratch_, step, stream_.handle());
    }
  }
}

PinnedRegion::PinnedRegion(std::shared_ptr<const CudaDevice> device, std::uint64_t size_bytes)
    : Region(size_bytes, {kDLCPU, 0}), memory_(std::move(device), size_bytes + kRegionAlignment) {
  const auto start = reinterpret_cast<std::uintptr_t>(memory_.data());
  base_ = memory_.data() + (StartIn(start) - start);
}

void PinnedRegion::MoveDown(std::uint64_t to, std::uint64_t from, std::uint64_t size_bytes) {
  std::memmove(base_ + to, base_ + from, size_bytes);
}

void PinnedRegion::Copy(const std::vector<CopyRange>& ranges) {
  for (const CopyRange& range : ranges) {
    std::memcpy(base_ + range.to, base_ + range.from, range.size_bytes);
  }
}

}  // namespace missile
