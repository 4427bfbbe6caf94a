#include "prober.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace missile::memsim {
namespace {

// Of one timing: a round to warm up, then those that are measured.
constexpr std::uint64_t kPairAccesses = 8;
constexpr std::uint64_t kRounds = 2;
constexpr std::uint32_t kWarp = 64;

bool InOneBank(const Place& a, const Place& b) { return a.bank == b.bank && a.row != b.row; }

}  // namespace

Prober::Prober(AddressMap map, const Timing& timing, std::vector<std::uint64_t> pages,
               const Noise& noise, std::uint32_t loaders, std::uint64_t seed)
    : map_(std::move(map)),
      refresh_interval_ps_(timing.refresh_interval_ps),
      memory_(map_, timing),
      pages_(std::move(pages)),
      noise_(noise),
      loaders_(loaders),
      random_(seed) {
  if (pages_.empty()) throw std::invalid_argument("there must be at least one page");
  if (loaders_ == 0) throw std::invalid_argument("loaders must be positive");
  for (const double share : {noise.wrong, noise.spikes, noise.jitter}) {
    if (!(share >= 0 && share < 1)) {
      throw std::invalid_argument("wrong, spikes and jitter must be at least 0 and less than 1");
    }
  }
}

std::uint64_t Prober::Physical(std::uint64_t address) const {
  const std::uint64_t page = address / kPageBytes;
  if (page >= pages_.size()) {
    throw std::out_of_range("address " + std::to_string(address) + " is outside the range of " +
                            std::to_string(pages_.size()) + " pages");
  }
  return pages_[page] * kPageBytes + address % kPageBytes;
}

std::vector<Place> Prober::Locate(const std::vector<std::uint64_t>& addresses) const {
  if (addresses.size() > kSetLimit) {
    throw std::invalid_argument("a set of " + std::to_string(addresses.size()) +
                                " addresses: at most " + std::to_string(kSetLimit) +
                                " are allowed");
  }
  std::vector<Place> places;
  places.reserve(addresses.size());
  for (const std::uint64_t address : addresses) places.push_back(map_.Locate(Physical(address)));
  return places;
}

double Prober::Disturbed(double time) {
  time *= std::max(0.1, 1 + noise_.jitter * normal_(random_));
  if (Chance(noise_.spikes)) time *= 1 + 7 * uniform_(random_);
  return time;
}

double Prober::PairLatencyNs(std::uint64_t first, std::uint64_t second) {
  Stream chase;
  chase.places = Locate({first, second});
  chase.width = 1;
  chase.bypass_l2 = true;
  chase.accesses = 2;
  if (Chance(noise_.wrong)) {
    Place& other = chase.places[1];
    if (InOneBank(chase.places[0], other)) {
      other = chase.places[0];
    } else {
      other = chase.places[0];
      other.row ^= 1;
    }
  }
  memory_.Reset();
  // Anywhere in the refresh's cycle.
  chase.start_ps =
      static_cast<std::int64_t>(uniform_(random_) * static_cast<double>(refresh_interval_ps_));
  const StreamResult warm = Run(memory_, {&chase})[0];
  chase.start_ps = warm.done_ps;
  chase.accesses = kPairAccesses;
  const StreamResult timed = Run(memory_, {&chase})[0];
  return Disturbed(timed.latency_sum_ps / 1e3 / static_cast<double>(timed.accesses));
}

double Prober::SetThroughput(const std::vector<std::uint64_t>& loaded,
                             const std::vector<std::uint64_t>& measured) {
  if (measured.empty()) throw std::invalid_argument("there must be an address to measure");
  Stream load;
  load.places = Locate(loaded);
  load.width = kWarp;
  load.in_flight = loaders_;
  Stream warp;
  warp.places = Locate(measured);
  warp.width = static_cast<std::uint32_t>(measured.size());
  if (!load.places.empty() && Chance(noise_.wrong)) {
    const bool share = std::any_of(warp.places.begin(), warp.places.end(), [&](const Place& a) {
      return std::any_of(load.places.begin(), load.places.end(),
                         [&](const Place& b) { return a.channel == b.channel; });
    });
    load.places = share ? std::vector<Place>{} : std::vector<Place>{warp.places[0]};
  }
  memory_.Reset();
  Stream fetch = warp;
  fetch.places.insert(fetch.places.end(), load.places.begin(), load.places.end());
  fetch.width = static_cast<std::uint32_t>(fetch.places.size());
  fetch.accesses = fetch.width;
  std::vector<const Stream*> streams{&warp};
  load.start_ps = Run(memory_, {&fetch})[0].done_ps;
  // Starts when the queues have filled.
  warp.start_ps = load.start_ps + 1;
  warp.accesses = kRounds * warp.width;
  if (!load.places.empty()) streams.push_back(&load);
  const StreamResult timed = Run(memory_, streams)[0];
  const double taken_us = static_cast<double>(timed.done_ps - warp.start_ps) / 1e6;
  return static_cast<double>(timed.accesses) / Disturbed(taken_us);
}

}  // namespace missile::memsim
