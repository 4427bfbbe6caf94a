// Who may launch: a view to a decision. Knows no processes, no memory and no clock.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace missile::arbiter {

inline constexpr int kNobody = -1;
inline constexpr std::int64_t kNeverNs = std::numeric_limits<std::int64_t>::max();

// quantum_ns: how long a best-effort tenant keeps the turn while others wait.
// grace_ns: while others wait, how long it may have nothing in flight and keep the turn.
// lease_ns: how long a turn is good for unless it is renewed.
// patience_ns: least, and most, that others wait for the launches of one whose turn is over.
// claim_ns: how long an LS launch that neither ends nor is followed by another holds BE back.
// settle_ns: how long a new arbiter waits for tenants of the last one before it gives a turn.
struct Limits {
  std::int64_t quantum_ns = 10'000'000;
  std::int64_t grace_ns = 200'000;
  std::int64_t lease_ns = 100'000'000;
  std::int64_t least_patience_ns = 100'000'000;
  std::int64_t most_patience_ns = 2'000'000'000;
  std::int64_t claim_ns = 2'000'000'000;
  std::int64_t settle_ns = 10'000'000;
};

// A best-effort tenant.
struct TenantView {
  bool wants = false;  // A launch of it waits.
  bool busy = false;   // It has launches in flight.
  double weight = 1.0;
  double vruntime_ns = 0.0;          // Time of its turns, by weight.
  std::int64_t patience_end_ns = 0;  // Others wait for its launches until then.
};

// latency_end_ns: LS is at work, and its claim good, until then; 0 if it is not.
// settled_ns: no turns before then.
// holder: whose turn it is, since `held_since_ns`, good until `until_ns`; it has wanted nothing
// since `idle_since_ns` (kNeverNs if it does).
struct View {
  std::int64_t now_ns = 0;
  std::int64_t latency_end_ns = 0;
  std::int64_t settled_ns = 0;
  int holder = kNobody;
  std::int64_t held_since_ns = 0;
  std::int64_t until_ns = 0;
  std::int64_t idle_since_ns = kNeverNs;
  std::vector<TenantView> tenants;
};

// look_again_ns: when time alone may change the decision.
struct Decision {
  int holder = kNobody;
  std::int64_t until_ns = 0;
  bool held_back = false;
  bool contended = false;
  std::int64_t look_again_ns = kNeverNs;
};

// A turn's end. One that is good for long enough stays as it is: a renewal is a store that others
// see.
std::int64_t Renewed(std::int64_t now_ns, std::int64_t until_ns, const Limits& limits);

// LS first: while it is at work nobody gets a turn, and who has one loses it. Else the waiting
// tenant with the least virtual run time, one at a time, once those before it have nothing in
// flight or patience with them is over.
Decision Decide(const View& view, const Limits& limits);

}  // namespace missile::arbiter
