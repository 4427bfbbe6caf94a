#include "memory.h"

#include <algorithm>
#include <stdexcept>

namespace missile::memsim {

Memory::Memory(const AddressMap& map, const Timing& timing)
    : timing_(timing),
      slice_free_ps_(map.slices()),
      bus_free_ps_(map.channels()),
      banks_(map.banks()) {
  for (const std::int64_t time :
       {timing.l2_ps, timing.miss_ps, timing.slice_ps, timing.burst_ps, timing.cas_ps,
        timing.activate_ps, timing.precharge_ps, timing.row_cycle_ps, timing.refresh_ps,
        timing.refresh_interval_ps}) {
    if (time < 0) throw std::invalid_argument("times must not be negative");
  }
  if (timing.refresh_interval_ps > 0 && timing.refresh_ps >= timing.refresh_interval_ps) {
    throw std::invalid_argument("a refresh must be shorter than the interval between two");
  }
  if (timing.l2_ways == 0 || timing.l2_lines == 0 || timing.l2_lines % timing.l2_ways != 0) {
    throw std::invalid_argument("l2_lines must be a multiple of l2_ways, both positive");
  }
  sets_ = timing.l2_lines / timing.l2_ways;
  lines_.resize(timing.l2_lines);
  Reset();
}

void Memory::Reset() {
  std::fill(slice_free_ps_.begin(), slice_free_ps_.end(), 0);
  std::fill(bus_free_ps_.begin(), bus_free_ps_.end(), 0);
  std::fill(banks_.begin(), banks_.end(), Bank{});
  std::fill(lines_.begin(), lines_.end(), kClosed);
}

std::int64_t Memory::Access(const Place& place, std::int64_t now_ps, bool bypass_l2) {
  ++accesses_;
  std::int64_t& slice = slice_free_ps_[place.slice];
  slice = std::max(slice, now_ps) + timing_.slice_ps;
  if (!bypass_l2 && Cached(place)) return slice + timing_.l2_ps;
  return Dram(place, slice) + timing_.l2_ps + timing_.miss_ps;
}

bool Memory::Cached(const Place& place) {
  // Neighbouring lines of one channel go to different sets whatever the map.
  const std::uint64_t set = (place.line * 0x9E3779B97F4A7C15U >> 32) % sets_;
  const auto first = lines_.begin() + static_cast<std::ptrdiff_t>(set * timing_.l2_ways);
  const auto last = first + timing_.l2_ways;
  auto found = std::find(first, last, place.line);
  const bool hit = found != last;
  if (!hit) found = last - 1;
  std::move_backward(first, found, found + 1);
  *first = place.line;
  return hit;
}

std::int64_t Memory::Dram(const Place& place, std::int64_t now_ps) {
  // The bus has so much to carry whenever the banks are ready: one that waits for its bank does not
  // hold up the others.
  std::int64_t& bus = bus_free_ps_[place.channel];
  bus = std::max(bus, now_ps) + timing_.burst_ps;

  Bank& bank = banks_[place.bank];
  std::int64_t start = std::max(now_ps, bank.ready_ps);
  if (timing_.refresh_interval_ps > 0) {
    const std::int64_t into = start % timing_.refresh_interval_ps;
    if (into < timing_.refresh_ps) start += timing_.refresh_ps - into;
    const std::int64_t epoch = start / timing_.refresh_interval_ps;
    if (epoch != bank.epoch) {
      bank.epoch = epoch;
      bank.row = kClosed;
    }
  }
  if (bank.row == place.row) {
    bank.ready_ps = start + timing_.burst_ps;
  } else {
    if (bank.row != kClosed) start += timing_.precharge_ps;
    start = std::max(start, bank.opened_ps + timing_.row_cycle_ps);
    bank.opened_ps = start;
    bank.row = place.row;
    start += timing_.activate_ps;
    bank.ready_ps = start;
  }
  return std::max(start + timing_.cas_ps + timing_.burst_ps, bus);
}

}  // namespace missile::memsim
