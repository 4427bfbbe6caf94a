// How best-effort tenants share what nobody else wants. Knows no processes, no memory and no clock.
#pragma once

#include <cstdint>
#include <vector>

namespace missile::arbiter {

// A tenant that yields: its threads run on processors that nobody else wants (SCHED_IDLE), so that
// no launch of it has to be waited for, and all of them may launch at once.
struct Sharer {
  double weight = 1.0;
  bool at_work = false;  // It has launches in flight, or some that wait; seen at this look.

  // From here on ShareOut() keeps it, from look to look.
  bool was_at_work = false;
  bool counts = false;       // It is at work, or was at the last look.
  double vruntime_ns = 0.0;  // Time at work in which it might launch, by weight.
  bool may_launch = true;
};

// So long may a tenant have launched more than its weight allows for.
inline constexpr std::int64_t kSlackNs = 20'000'000;

// Charges those at work for the time since the last look, and says who may launch until the next:
// all but those that are ahead, by more than kSlackNs, of another that is at work. Those of one
// weight never are.
void ShareOut(std::int64_t elapsed_ns, const std::vector<Sharer*>& sharers);

}  // namespace missile::arbiter
