#include "cuda_prober.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

namespace missile {
namespace {

// cuda.h's numbers.
constexpr int kMultiprocessorCount = 16;
constexpr int kClockRateKhz = 13;
constexpr int kL2CacheSize = 38;

constexpr unsigned kLines = 2;
constexpr unsigned kRounds = 64;
constexpr unsigned kHops = 64;
constexpr unsigned kThreads = 1024;

// The scratch: sets of 64 addresses, then 8 bytes each.
constexpr std::size_t kSetBytes = CudaProber::kSetLimit * sizeof(std::uint64_t);
constexpr std::size_t kControl = 2 * kSetBytes;
constexpr std::size_t kResult = kControl + 8;
constexpr std::size_t kSink = kResult + 8;
constexpr std::size_t kScratchBytes = kSink + 8;

}  // namespace

CudaBuffer::CudaBuffer(std::shared_ptr<const CudaDevice> device, std::size_t size_bytes)
    : device_(std::move(device)) {
  const CudaScope scope(*device_);
  device_->driver().cuMemAlloc(&address_, size_bytes);
}

CudaBuffer::~CudaBuffer() { GiveBack(*device_, device_->driver().cuMemFree, address_); }

CudaProber::CudaProber(std::shared_ptr<const CudaDevice> device, const std::string& ptx,
                       std::size_t pages, unsigned multiprocessor, unsigned repeats)
    : device_(std::move(device)),
      calls_(device_->driver()),
      pages_(pages),
      multiprocessor_(multiprocessor),
      repeats_(repeats),
      stream_(device_) {
  if (pages == 0 || repeats == 0) {
    throw std::invalid_argument("pages and repeats must be positive");
  }
  const CudaScope scope(*device_);
  int handle = 0;
  calls_.cuCtxGetDevice(&handle);
  char name[256] = {};
  calls_.cuDeviceGetName(name, sizeof(name) - 1, handle);
  gpu_ = name;
  multiprocessors_ = static_cast<unsigned>(Attribute(kMultiprocessorCount));
  if (multiprocessor >= multiprocessors_) {
    throw std::invalid_argument("multiprocessor " + std::to_string(multiprocessor) + ": " + gpu_ +
                                " has " + std::to_string(multiprocessors_));
  }
  cycles_per_ns_ = Attribute(kClockRateKhz) / 1e6;
  // Twice the L2, so that whatever it keeps longest goes too.
  flush_bytes_ = 2 * static_cast<std::uint64_t>(Attribute(kL2CacheSize));
  memory_ = std::make_unique<CudaBuffer>(device_, (pages + 1) * kPageBytes);
  start_ = (memory_->address() + kPageBytes - 1) / kPageBytes * kPageBytes;
  flushed_ = std::make_unique<CudaBuffer>(device_, flush_bytes_);
  scratch_ = std::make_unique<CudaBuffer>(device_, kScratchBytes);
  staging_ = std::make_unique<PinnedMemory>(device_, kScratchBytes);
  calls_.cuMemsetD8Async(memory_->address(), 0, (pages + 1) * kPageBytes, stream_.handle());
  calls_.cuMemsetD8Async(flushed_->address(), 0, flush_bytes_, stream_.handle());
  device_->driver().cuStreamSynchronize(stream_.handle());
  calls_.cuModuleLoadData(&module_, ptx.c_str());
  const std::pair<CudaFunction*, const char*> kernels[] = {{&flush_, "missile_flush"},
                                                           {&pair_, "missile_pair_latency"},
                                                           {&round_, "missile_set_round"},
                                                           {&l2_, "missile_l2_latency"}};
  try {
    for (const auto& [kernel, symbol] : kernels) {
      calls_.cuModuleGetFunction(kernel, module_, symbol);
    }
  } catch (...) {
    calls_.cuModuleUnload.Try(module_);
    throw;
  }
}

CudaProber::~CudaProber() { GiveBack(*device_, calls_.cuModuleUnload, module_); }

int CudaProber::Attribute(int number) const {
  int handle = 0;
  int value = 0;
  calls_.cuCtxGetDevice(&handle);
  calls_.cuDeviceGetAttribute(&value, number, handle);
  return value;
}

CudaAddress CudaProber::At(std::uint64_t offset) const {
  if (offset >= pages_ * kPageBytes) {
    throw std::out_of_range("address " + std::to_string(offset) + " is outside the range of " +
                            std::to_string(pages_) + " pages");
  }
  return start_ + offset;
}

void CudaProber::Upload(const std::vector<std::uint64_t>& offsets, std::size_t slot) {
  if (offsets.size() > kSetLimit) {
    throw std::invalid_argument("a set of " + std::to_string(offsets.size()) +
                                " addresses: at most " + std::to_string(kSetLimit) +
                                " are allowed");
  }
  std::vector<std::uint64_t> addresses;
  addresses.reserve(offsets.size());
  // 256 bytes on end are measured, wherever in them the address is.
  for (const std::uint64_t offset : offsets) addresses.push_back(At(offset / 256 * 256));
  if (addresses.empty()) return;
  std::byte* const at = staging_->data() + slot * kSetBytes;
  const std::size_t size_bytes = addresses.size() * sizeof(std::uint64_t);
  std::memcpy(at, addresses.data(), size_bytes);
  device_->driver().cuMemcpyHtoDAsync(scratch_->address() + slot * kSetBytes, at, size_bytes,
                                      stream_.handle());
}

void CudaProber::Launch(CudaFunction kernel, unsigned blocks, unsigned threads,
                        std::vector<void*> arguments) {
  calls_.cuLaunchKernel(kernel, blocks, 1, 1, threads, 1, 1, 0, stream_.handle(), arguments.data(),
                        nullptr);
}

void CudaProber::Flush() {
  CudaAddress buffer = flushed_->address();
  std::uint64_t words = flush_bytes_ / sizeof(unsigned);
  CudaAddress sink = scratch_->address() + kSink;
  Launch(flush_, multiprocessors_, kThreads, {&buffer, &words, &sink});
}

template <typename Call>
double CudaProber::LeastNs(bool flush, const Call& launch) {
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  auto* const result = reinterpret_cast<std::uint64_t*>(staging_->data() + kResult);
  for (unsigned repeat = 0; repeat < repeats_; ++repeat) {
    calls_.cuMemsetD8Async(scratch_->address() + kControl, 0, kScratchBytes - kControl,
                           stream_.handle());
    if (flush) Flush();
    launch();
    device_->driver().cuMemcpyDtoHAsync(result, scratch_->address() + kResult, sizeof(*result),
                                        stream_.handle());
    device_->driver().cuStreamSynchronize(stream_.handle());
    if (*result == 0) {
      throw CudaError("no block ran on multiprocessor " + std::to_string(multiprocessor_) +
                      ": probe while nothing else uses the GPU");
    }
    least = std::min(least, *result);
  }
  return static_cast<double>(least) / cycles_per_ns_;
}

double CudaProber::PairLatencyNs(std::uint64_t first, std::uint64_t second) {
  const CudaScope scope(*device_);
  CudaAddress a = At(first / 256 * 256);
  CudaAddress b = At(second / 256 * 256);
  unsigned lines = kLines;
  CudaAddress result = scratch_->address() + kResult;
  return LeastNs(true, [&] { Launch(pair_, 1, 1, {&a, &b, &lines, &result}); });
}

double CudaProber::SetThroughput(const std::vector<std::uint64_t>& loaded,
                                 const std::vector<std::uint64_t>& measured) {
  if (measured.empty()) throw std::invalid_argument("there must be an address to measure");
  const CudaScope scope(*device_);
  Upload(loaded, 0);
  Upload(measured, 1);
  CudaAddress loads = scratch_->address();
  CudaAddress places = scratch_->address() + kSetBytes;
  auto loaded_count = static_cast<unsigned>(loaded.size());
  auto measured_count = static_cast<unsigned>(measured.size());
  unsigned target = multiprocessor_;
  unsigned rounds = kRounds;
  CudaAddress control = scratch_->address() + kControl;
  CudaAddress result = scratch_->address() + kResult;
  const double round_ns = LeastNs(false, [&] {
    Launch(round_, multiprocessors_, kThreads,
           {&loads, &loaded_count, &places, &measured_count, &target, &rounds, &control, &result});
  });
  return static_cast<double>(measured.size()) / (round_ns / 1e3);
}

double CudaProber::L2LatencyNs(std::uint64_t address) {
  const CudaScope scope(*device_);
  CudaAddress place = At(address);
  unsigned target = multiprocessor_;
  unsigned hops = kHops;
  CudaAddress result = scratch_->address() + kResult;
  return LeastNs(false,
                 [&] { Launch(l2_, multiprocessors_, 32, {&place, &target, &hops, &result}); });
}

}  // namespace missile
