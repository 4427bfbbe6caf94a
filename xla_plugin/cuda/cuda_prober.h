// Timings of memory on a GPU, by the kernels of channel_probe.cu.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../src/cuda_device.h"

namespace missile {

using CudaModule = struct CUmod_st*;
using CudaFunction = struct CUfunc_st*;

// What a prober calls besides what src/cuda.h has: looked up when the first prober is made.
struct CudaKernelCalls {
  explicit CudaKernelCalls(const CudaDriver& driver) : driver(driver) {}

  const CudaDriver& driver;
  const CudaCall<int*> cuCtxGetDevice{driver, "cuCtxGetDevice"};
  const CudaCall<int*, int, int> cuDeviceGetAttribute{driver, "cuDeviceGetAttribute"};
  const CudaCall<char*, int, int> cuDeviceGetName{driver, "cuDeviceGetName"};
  const CudaCall<CudaModule*, const void*> cuModuleLoadData{driver, "cuModuleLoadData"};
  const CudaCall<CudaModule> cuModuleUnload{driver, "cuModuleUnload"};
  const CudaCall<CudaFunction*, CudaModule, const char*> cuModuleGetFunction{driver,
                                                                             "cuModuleGetFunction"};
  const CudaCall<CudaAddress, unsigned char, std::size_t, CudaStreamHandle> cuMemsetD8Async{
      driver, "cuMemsetD8Async"};
  const CudaCall<CudaFunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                 CudaStreamHandle, void**, void**>
      cuLaunchKernel{driver, "cuLaunchKernel"};
};

// Device memory that is freed with its owner.
class CudaBuffer {
 public:
  CudaBuffer(std::shared_ptr<const CudaDevice> device, std::size_t size_bytes);
  ~CudaBuffer();
  CudaBuffer(const CudaBuffer&) = delete;
  CudaBuffer& operator=(const CudaBuffer&) = delete;

  CudaAddress address() const { return address_; }

 private:
  const std::shared_ptr<const CudaDevice> device_;
  CudaAddress address_ = 0;
};

// Probes `pages` pages of 2 MiB, of its own, by their offsets. One timing at a time.
class CudaProber {
 public:
  static constexpr std::uint64_t kPageBytes = std::uint64_t{2} << 20;
  static constexpr std::size_t kSetLimit = 64;

  // `ptx`: the text of channel_probe.ptx. `multiprocessor`: the one that measures. Each timing is
  // the least of `repeats`.
  CudaProber(std::shared_ptr<const CudaDevice> device, const std::string& ptx, std::size_t pages,
             unsigned multiprocessor, unsigned repeats);
  ~CudaProber();
  CudaProber(const CudaProber&) = delete;
  CudaProber& operator=(const CudaProber&) = delete;

  double PairLatencyNs(std::uint64_t first, std::uint64_t second);
  double SetThroughput(const std::vector<std::uint64_t>& loaded,
                       const std::vector<std::uint64_t>& measured);
  // Of one address in the L2, from the multiprocessor that measures: by how far its slice is.
  double L2LatencyNs(std::uint64_t address);

  std::size_t pages() const { return pages_; }
  const std::string& gpu() const { return gpu_; }

 private:
  int Attribute(int number) const;
  CudaAddress At(std::uint64_t offset) const;
  void Upload(const std::vector<std::uint64_t>& offsets, std::size_t slot);
  void Launch(CudaFunction kernel, unsigned blocks, unsigned threads, std::vector<void*> arguments);
  void Flush();
  // Zeroes the result, runs `launch`, and gives the cycles that it wrote.
  template <typename Call>
  double LeastNs(bool flush, const Call& launch);

  const std::shared_ptr<const CudaDevice> device_;
  const CudaKernelCalls calls_;
  const std::size_t pages_;
  const unsigned multiprocessor_;
  const unsigned repeats_;
  const CudaStream stream_;
  CudaModule module_ = nullptr;
  CudaFunction flush_ = nullptr;
  CudaFunction pair_ = nullptr;
  CudaFunction round_ = nullptr;
  CudaFunction l2_ = nullptr;
  std::string gpu_;
  unsigned multiprocessors_ = 0;
  double cycles_per_ns_ = 0;
  std::uint64_t flush_bytes_ = 0;
  std::unique_ptr<CudaBuffer> memory_;
  CudaAddress start_ = 0;
  std::unique_ptr<CudaBuffer> flushed_;
  // Two sets of addresses, a Control, the result and the flush's sink.
  std::unique_ptr<CudaBuffer> scratch_;
  std::unique_ptr<PinnedMemory> staging_;
};

}  // namespace missile
