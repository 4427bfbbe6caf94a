#include "decide.h"

#include <algorithm>
#include <cmath>

namespace missile::arbiter {
namespace {

// Of those that wait, but the holder, the one that is least ahead; kNobody if none waits.
int Next(const View& view) {
  int next = kNobody;
  for (int k = 0; k < static_cast<int>(view.tenants.size()); ++k) {
    if (k == view.holder || !view.tenants[k].wants) continue;
    if (next == kNobody || view.tenants[k].vruntime_ns < view.tenants[next].vruntime_ns) next = k;
  }
  return next;
}

// When the holder's turn is to end for `next`, given that both go on as they do.
std::int64_t TurnEnd(const View& view, const Limits& limits, const TenantView& next) {
  const TenantView& holder = view.tenants[view.holder];
  const std::int64_t quantum_end = view.held_since_ns + limits.quantum_ns;
  const double ahead_ns = (next.vruntime_ns - holder.vruntime_ns) * holder.weight;
  if (!(ahead_ns > 0.0)) return quantum_end;
  // Weights are bounded, but nobody waits for ever for a tenant that was far ahead.
  const double most_ns = static_cast<double>(limits.most_patience_ns);
  const auto catches_up_ns = static_cast<std::int64_t>(std::ceil(std::min(ahead_ns, most_ns)));
  return std::max(quantum_end, view.now_ns + catches_up_ns);
}

}  // namespace

std::int64_t Renewed(std::int64_t now_ns, std::int64_t until_ns, const Limits& limits) {
  return until_ns - now_ns > limits.lease_ns / 2 ? until_ns : now_ns + limits.lease_ns;
}

Decision Decide(const View& view, const Limits& limits) {
  Decision decision;
  const int next = Next(view);
  const bool wanted = next != kNobody;
  const bool holder_wants = view.holder != kNobody && view.tenants[view.holder].wants;
  if (view.now_ns < view.latency_end_ns) {
    decision.held_back = wanted || holder_wants;
    decision.look_again_ns = view.latency_end_ns;
    return decision;
  }
  if (view.holder != kNobody) {
    decision.holder = view.holder;
    decision.contended = wanted;
    decision.until_ns = Renewed(view.now_ns, view.until_ns, limits);
    if (!wanted) return decision;
    std::int64_t end_ns = TurnEnd(view, limits, view.tenants[next]);
    if (view.idle_since_ns != kNeverNs) {
      end_ns = std::min(end_ns, view.idle_since_ns + limits.grace_ns);
    }
    decision.look_again_ns = end_ns;
    if (view.now_ns < end_ns) return decision;
  }
  decision = Decision{};
  if (!wanted) return decision;
  std::int64_t clear_ns = view.settled_ns;
  for (int k = 0; k < static_cast<int>(view.tenants.size()); ++k) {
    const TenantView& tenant = view.tenants[k];
    if (k == next || !tenant.busy) continue;
    const bool loses_it_now = k == view.holder;
    clear_ns = std::max(clear_ns, loses_it_now ? view.now_ns + 1 : tenant.patience_end_ns);
  }
  decision.contended = true;
  decision.look_again_ns = clear_ns;
  if (view.now_ns < clear_ns) return decision;
  decision.holder = next;
  decision.until_ns = view.now_ns + limits.lease_ns;
  decision.look_again_ns = view.now_ns + limits.quantum_ns;
  return decision;
}

}  // namespace missile::arbiter
