#include "copy.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>

#ifdef __linux__
#include <sys/mman.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#define MISSILE_STREAMS 1
#include <immintrin.h>
#endif

#include "clock.h"

namespace missile {
namespace {

constexpr std::size_t kLine = 64;

#ifdef MISSILE_STREAMS

// Below this the lines that are copied plainly at both ends are a large part.
constexpr std::size_t kStreamAbove = 16 * kLine;
// Far enough for memory to answer, near enough to be in the first cache still.
constexpr std::size_t kAheadBytes = 1024;

// Both take a destination aligned to a line and whole groups of four lines. They go upwards, and
// read what they write over before they do.
__attribute__((target("avx512f"))) void StreamAvx512(std::byte* to, const std::byte* from,
                                                     std::size_t groups) {
  for (; groups != 0; --groups, to += 4 * kLine, from += 4 * kLine) {
    for (std::size_t line = 0; line < 4; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(from + kAheadBytes + line * kLine), _MM_HINT_T0);
    }
    const __m512i a = _mm512_loadu_si512(from);
    const __m512i b = _mm512_loadu_si512(from + kLine);
    const __m512i c = _mm512_loadu_si512(from + 2 * kLine);
    const __m512i d = _mm512_loadu_si512(from + 3 * kLine);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + kLine), b);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + 2 * kLine), c);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + 3 * kLine), d);
  }
  _mm_sfence();
}

__attribute__((target("avx2"))) void StreamAvx2(std::byte* to, const std::byte* from,
                                                std::size_t groups) {
  for (; groups != 0; --groups, to += 4 * kLine, from += 4 * kLine) {
    for (std::size_t line = 0; line < 4; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(from + kAheadBytes + line * kLine), _MM_HINT_T0);
    }
    for (std::size_t half = 0; half < 8; half += 2) {
      const auto* source = reinterpret_cast<const __m256i*>(from) + half;
      auto* target = reinterpret_cast<__m256i*>(to) + half;
      const __m256i a = _mm256_loadu_si256(source);
      const __m256i b = _mm256_loadu_si256(source + 1);
      _mm256_stream_si256(target, a);
      _mm256_stream_si256(target + 1, b);
    }
  }
  _mm_sfence();
}

using Stream = void (*)(std::byte*, const std::byte*, std::size_t);

Stream BestStream() {
  static const Stream best = []() -> Stream {
    if (__builtin_cpu_supports("avx512f")) return StreamAvx512;
    if (__builtin_cpu_supports("avx2")) return StreamAvx2;
    return nullptr;
  }();
  return best;
}

#endif  // MISSILE_STREAMS

// Memory that is mapped, in huge pages where the kernel gives them.
class Mapped {
 public:
  explicit Mapped(std::size_t size_bytes) {
    constexpr std::size_t kHuge = std::size_t{2} << 20;
    const std::size_t reserved = (size_bytes + kHuge - 1) / kHuge * kHuge;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kHuge, std::max(reserved, kHuge))));
    if (data_ == nullptr) throw std::bad_alloc();
#ifdef __linux__
    // Only a hint: small pages do too.
    (void)madvise(data_.get(), reserved, MADV_HUGEPAGE);
#endif
    std::memset(data_.get(), 1, size_bytes);
  }
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace

const char* StreamingStores() {
#ifdef MISSILE_STREAMS
  if (BestStream() == StreamAvx512) return "avx512f";
  if (BestStream() == StreamAvx2) return "avx2";
#endif
  return "none";
}

void CopyBytes(std::byte* destination, const std::byte* source, std::size_t size_bytes,
               Stores stores) {
#ifdef MISSILE_STREAMS
  const Stream stream = stores == Stores::kNonTemporal ? BestStream() : nullptr;
  if (stream != nullptr && size_bytes >= kStreamAbove) {
    const std::size_t past = reinterpret_cast<std::uintptr_t>(destination) % kLine;
    const std::size_t head = past == 0 ? 0 : kLine - past;
    const std::size_t groups = (size_bytes - head) / (4 * kLine);
    const std::size_t tail = head + groups * 4 * kLine;
    std::memmove(destination, source, head);
    stream(destination + head, source + head, groups);
    std::memmove(destination + tail, source + tail, size_bytes - tail);
    return;
  }
#else
  (void)stores;
#endif
  std::memmove(destination, source, size_bytes);
}

std::int64_t TimeCopyNs(std::byte* destination, const std::byte* source, std::size_t size_bytes,
                        int threads, Stores stores, std::size_t chunk_bytes) {
  const auto parts = static_cast<std::size_t>(std::max(threads, 1));
  const std::size_t step = chunk_bytes == 0 ? size_bytes : chunk_bytes;
  auto copy_part = [&](std::size_t part) {
    const std::size_t end = size_bytes * (part + 1) / parts;
    for (std::size_t at = size_bytes * part / parts; at < end; at += step) {
      CopyBytes(destination + at, source + at, std::min(step, end - at), stores);
    }
  };
  std::atomic<std::size_t> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> helpers;
  for (std::size_t part = 1; part < parts; ++part) {
    helpers.emplace_back([&, part] {
      ready.fetch_add(1);
      while (!go.load()) {
      }
      copy_part(part);
      ready.fetch_sub(1);
    });
  }
  while (ready.load() != parts - 1) {
  }
  const std::int64_t start_ns = NowNs();
  go.store(true);
  copy_part(0);
  while (ready.load() != 0) {
  }
  const std::int64_t taken_ns = NowNs() - start_ns;
  for (std::thread& helper : helpers) helper.join();
  return taken_ns;
}

std::vector<CopyRate> MeasureCopies(std::size_t size_bytes, int repeats, std::size_t chunk_bytes,
                                    int max_threads) {
  const Mapped source(size_bytes);
  const Mapped destination(size_bytes);
  std::vector<CopyRate> rates;
  for (int threads = 1; threads <= max_threads; ++threads) {
    for (Stores stores : {Stores::kPlain, Stores::kNonTemporal}) {
      rates.push_back({threads, stores, 0.0});
    }
  }
  const auto turns = static_cast<std::size_t>(std::max(repeats, 1));
  std::vector<std::vector<std::int64_t>> taken_ns(rates.size());
  for (std::size_t turn = 0; turn < turns; ++turn) {
    for (std::size_t way = 0; way < rates.size(); ++way) {
      taken_ns[way].push_back(TimeCopyNs(destination.data(), source.data(), size_bytes,
                                         rates[way].threads, rates[way].stores, chunk_bytes));
    }
  }
  for (std::size_t way = 0; way < rates.size(); ++way) {
    auto middle = taken_ns[way].begin() + static_cast<std::ptrdiff_t>(turns / 2);
    std::nth_element(taken_ns[way].begin(), middle, taken_ns[way].end());
    const std::int64_t median_ns = std::max<std::int64_t>(*middle, 1);
    rates[way].bytes_per_s = static_cast<double>(size_bytes) * 1e9 / static_cast<double>(median_ns);
  }
  return rates;
}

}  // namespace missile
