// The fastest copy that this processor has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace missile {

// How a copy writes. Streaming stores do not read the destination's cache lines first, nor put out
// of the cache what others use; a copy that is read soon is better off without.
enum class Stores : std::uint8_t { kPlain, kNonTemporal };

// Copies to a range that does not overlap the source, or begins below it. Without streaming stores
// kNonTemporal is kPlain.
void CopyBytes(std::byte* destination, const std::byte* source, std::size_t size_bytes,
               Stores stores);

// The instructions behind kNonTemporal: "avx512f", "avx2" or "none".
const char* StreamingStores();

// Copies with `threads` threads, each its part in pieces of `chunk_bytes` (0: in one), and returns
// the time from when all were ready until the last was done.
std::int64_t TimeCopyNs(std::byte* destination, const std::byte* source, std::size_t size_bytes,
                        int threads, Stores stores, std::size_t chunk_bytes);

struct CopyRate {
  int threads;
  Stores stores;
  double bytes_per_s;
};

// The median rate of each way to copy with up to `max_threads` threads, taken in turns on memory
// that is mapped already. Throws std::bad_alloc if the memory is not to be had.
std::vector<CopyRate> MeasureCopies(std::size_t size_bytes, int repeats, std::size_t chunk_bytes,
                                    int max_threads);

}  // namespace missile
