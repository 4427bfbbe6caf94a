#include "share.h"

#include <algorithm>
#include <cmath>

namespace missile::arbiter {
namespace {

// A little less than what holds others up, so that nobody who comes back does.
constexpr double kCreditNs = 0.95 * static_cast<double>(kSlackNs);

}  // namespace

void ShareOut(std::int64_t elapsed_ns, const std::vector<Sharer*>& sharers) {
  double most_ns = -HUGE_VAL;
  for (const Sharer* sharer : sharers) {
    if (sharer->counts) most_ns = std::max(most_ns, sharer->vruntime_ns);
  }
  double least_ns = HUGE_VAL;
  for (Sharer* sharer : sharers) {
    const bool counted = sharer->counts;
    // A look between two launches sees nobody at work, so that one such look does not count.
    sharer->counts = sharer->at_work || sharer->was_at_work;
    sharer->was_at_work = sharer->at_work;
    if (!sharer->counts) continue;
    if (!counted) {
      // Absence earns little credit, and no debt outlasts it.
      if (most_ns != -HUGE_VAL) {
        sharer->vruntime_ns = std::clamp(sharer->vruntime_ns, most_ns - kCreditNs, most_ns);
      }
      most_ns = std::max(most_ns, sharer->vruntime_ns);
    }
    if (sharer->may_launch) sharer->vruntime_ns += static_cast<double>(elapsed_ns) / sharer->weight;
    least_ns = std::min(least_ns, sharer->vruntime_ns);
  }
  for (Sharer* sharer : sharers) {
    const double ahead_ns = sharer->vruntime_ns - least_ns;
    sharer->may_launch = !sharer->counts || ahead_ns <= static_cast<double>(kSlackNs);
  }
}

}  // namespace missile::arbiter
