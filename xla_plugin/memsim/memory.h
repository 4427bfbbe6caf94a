// The memory system behind the streaming multiprocessors: L2 slices, then banks and a bus for each
// channel. A model for timings, not of data: every access is served at once, by the times at which
// the parts that it needs become free.
#pragma once

#include <cstdint>
#include <vector>

#include "address_map.h"

namespace missile::memsim {

// Times in picoseconds. The defaults are of a GDDR5 card at about 40 GB/s a channel.
struct Timing {
  // From the request to the answer of an L2 hit without a queue, and what a miss adds besides DRAM.
  std::int64_t l2_ps = 160'000;
  std::int64_t miss_ps = 45'000;
  // For how long a line of 128 bytes takes a slice, and 64 bytes the channel's bus.
  std::int64_t slice_ps = 2'000;
  std::int64_t burst_ps = 1'600;
  // A bank: to read from the open row, to open one, to close one, and from one opening to the next.
  std::int64_t cas_ps = 15'000;
  std::int64_t activate_ps = 20'000;
  std::int64_t precharge_ps = 20'000;
  std::int64_t row_cycle_ps = 45'000;
  // All banks of a channel stand still for the second of these once in the first; 0: never.
  std::int64_t refresh_interval_ps = 3'900'000;
  std::int64_t refresh_ps = 80'000;
  std::uint32_t l2_lines = 16'384;
  std::uint32_t l2_ways = 16;
};

class Memory {
 public:
  // Throws std::invalid_argument if a time is negative or the cache has no whole number of sets.
  Memory(const AddressMap& map, const Timing& timing);

  // Forgets what is cached, open or busy.
  void Reset();
  // The time at which the answer to a request of `now_ps` is there. Calls come in order of time.
  std::int64_t Access(const Place& place, std::int64_t now_ps, bool bypass_l2);
  std::uint64_t accesses() const { return accesses_; }

 private:
  struct Bank {
    std::int64_t ready_ps = 0;
    std::int64_t opened_ps = kNever;
    std::int64_t epoch = 0;
    std::uint64_t row = kClosed;
  };
  static constexpr std::int64_t kNever = -(std::int64_t{1} << 60);
  static constexpr std::uint64_t kClosed = ~std::uint64_t{0};

  bool Cached(const Place& place);
  std::int64_t Dram(const Place& place, std::int64_t now_ps);

  Timing timing_;
  std::vector<std::int64_t> slice_free_ps_;
  std::vector<std::int64_t> bus_free_ps_;
  std::vector<Bank> banks_;
  // Sets of l2_ways line numbers, the one used last first.
  std::vector<std::uint64_t> lines_;
  std::uint64_t sets_;
  std::uint64_t accesses_ = 0;
};

}  // namespace missile::memsim
