// What a program on the GPU could time: it sees virtual addresses, and some timings are wrong.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "address_map.h"
#include "memory.h"
#include "streams.h"

namespace missile::memsim {

// wrong: share of timings that are those of the opposite case: as if a pair that conflicts did not,
// as if sets that share a channel did not, and the other way round. spikes: share that takes up to
// eight times as long. jitter: standard deviation of the rest, as a share.
struct Noise {
  double wrong = 0;
  double spikes = 0;
  double jitter = 0;
};

class Prober {
 public:
  static constexpr std::uint64_t kPageBytes = std::uint64_t{2} << 20;
  static constexpr std::size_t kSetLimit = 64;

  // `pages`: the physical page behind each page of a virtual range that starts at 0.
  // `loaders`: multiprocessors that stream the loaded set.
  Prober(AddressMap map, const Timing& timing, std::vector<std::uint64_t> pages, const Noise& noise,
         std::uint32_t loaders, std::uint64_t seed);

  // Mean latency in ns of a chase that goes to and fro between two addresses past the L2.
  double PairLatencyNs(std::uint64_t first, std::uint64_t second);
  // Accesses per us of a warp over `measured` while the other multiprocessors stream `loaded`;
  // with nothing loaded, alone. Both sets lie in the L2.
  double SetThroughput(const std::vector<std::uint64_t>& loaded,
                       const std::vector<std::uint64_t>& measured);

  const AddressMap& map() const { return map_; }
  std::size_t pages() const { return pages_.size(); }
  std::uint64_t accesses() const { return memory_.accesses(); }
  // Throws std::out_of_range if it is outside the range.
  std::uint64_t Physical(std::uint64_t address) const;

 private:
  std::vector<Place> Locate(const std::vector<std::uint64_t>& addresses) const;
  bool Chance(double share) { return share > 0 && uniform_(random_) < share; }
  double Disturbed(double time);

  AddressMap map_;
  std::int64_t refresh_interval_ps_;
  Memory memory_;
  std::vector<std::uint64_t> pages_;
  Noise noise_;
  std::uint32_t loaders_;
  std::mt19937_64 random_;
  std::uniform_real_distribution<double> uniform_{0.0, 1.0};
  std::normal_distribution<double> normal_{0.0, 1.0};
};

}  // namespace missile::memsim
