// Streams of accesses that run beside each other.
#pragma once

#include <cstdint>
#include <vector>

#include "memory.h"

namespace missile::memsim {

// Goes round its places. `in_flight` warps each issue the next `width` accesses together, wait for
// the slowest, then compute for `gap_ps`. Ends once `accesses` are issued; with 0 it goes on for as
// long as a stream that ends does.
struct Stream {
  std::vector<Place> places;
  std::uint32_t width = 32;
  std::uint32_t in_flight = 1;
  std::int64_t gap_ps = 0;
  std::uint64_t accesses = 0;
  std::int64_t start_ps = 0;
  bool bypass_l2 = false;
};

// Of answers that came before the run ended. done_ps: when the last of them did.
struct StreamResult {
  std::uint64_t accesses = 0;
  std::int64_t done_ps = 0;
  double latency_sum_ps = 0;
  std::int64_t latency_max_ps = 0;
};

// Throws std::invalid_argument if a stream has nothing to do or none ends.
std::vector<StreamResult> Run(Memory& memory, const std::vector<const Stream*>& streams);

}  // namespace missile::memsim
