// An arena's memory on a CUDA device.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_device.h"
#include "region.h"

namespace missile {

// One allocation of the driver's. The host never touches its bytes.
class CudaRegion : public Region {
 public:
  // The device gives up to 3 MiB more: for the start, and to slide bytes through. Throws NoMemory
  // and CudaError.
  CudaRegion(std::shared_ptr<const CudaDevice> device, std::uint64_t size_bytes);
  ~CudaRegion() override;

  void MoveDown(std::uint64_t to, std::uint64_t from, std::uint64_t size_bytes) override;
  void Copy(const std::vector<CopyRange>& ranges) override;

 private:
  // Enqueues by `enqueue` and waits for all of it.
  template <typename Enqueued>
  void Run(const Enqueued& enqueue);
  void Enqueue(CudaAddress to, CudaAddress from, std::uint64_t size_bytes) const;

  const std::shared_ptr<const CudaDevice> device_;
  // Moves are made one after another, on a stream of their own.
  std::mutex moving_;
  const CudaStream stream_;
  const CudaEvent moved_;
  CudaAddress allocation_ = 0;
  CudaAddress start_ = 0;
  CudaAddress scratch_ = 0;
};

// Pinned memory of the host's, which a device reads and writes by itself.
class PinnedRegion : public Region {
 public:
  // The host gives 2 MiB more, for the start. Throws NoMemory and CudaError.
  PinnedRegion(std::shared_ptr<const CudaDevice> device, std::uint64_t size_bytes);

  void MoveDown(std::uint64_t to, std::uint64_t from, std::uint64_t size_bytes) override;
  void Copy(const std::vector<CopyRange>& ranges) override;

 private:
  const PinnedMemory memory_;
};

}  // namespace missile
