#include "streams.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <stdexcept>
#include <utility>

namespace missile::memsim {

std::vector<StreamResult> Run(Memory& memory, const std::vector<const Stream*>& streams) {
  // When a warp issues next, and the number of its stream.
  using Turn = std::pair<std::int64_t, std::uint32_t>;
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns;
  std::uint64_t left = 0;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const Stream& stream = *streams[i];
    if (stream.places.empty() || stream.width == 0 || stream.in_flight == 0) {
      throw std::invalid_argument("a stream needs addresses, a width and warps in flight");
    }
    if (stream.gap_ps < 0 || stream.start_ps < 0) {
      throw std::invalid_argument("a stream's times must not be negative");
    }
    left += stream.accesses;
    for (std::uint32_t warp = 0; warp < stream.in_flight; ++warp) {
      turns.emplace(stream.start_ps, static_cast<std::uint32_t>(i));
    }
  }
  if (left == 0) throw std::invalid_argument("at least one stream must have a number of accesses");

  std::vector<StreamResult> results(streams.size());
  std::vector<std::uint64_t> issued(streams.size());
  std::vector<std::size_t> next(streams.size());
  while (left > 0) {
    const auto [now_ps, i] = turns.top();
    turns.pop();
    const Stream& stream = *streams[i];
    std::uint64_t width = stream.width;
    if (stream.accesses > 0) {
      width = std::min<std::uint64_t>(width, stream.accesses - issued[i]);
      left -= width;
    }
    if (width == 0) continue;
    issued[i] += width;
    StreamResult& result = results[i];
    std::int64_t last_ps = now_ps;
    for (std::uint64_t k = 0; k < width; ++k) {
      const Place& place = stream.places[next[i]];
      if (++next[i] == stream.places.size()) next[i] = 0;
      const std::int64_t done_ps = memory.Access(place, now_ps, stream.bypass_l2);
      last_ps = std::max(last_ps, done_ps);
      result.latency_sum_ps += static_cast<double>(done_ps - now_ps);
      result.latency_max_ps = std::max(result.latency_max_ps, done_ps - now_ps);
    }
    result.accesses += width;
    result.done_ps = std::max(result.done_ps, last_ps);
    turns.emplace(last_ps + stream.gap_ps, i);
  }
  return results;
}

}  // namespace missile::memsim
