#include "fair.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace missile {
namespace {

// Rounding must not cost best effort its turn.
constexpr double kAlmost = 1.0 - 1e-9;

void CheckWeight(double weight) {
  if (!(weight > 0.0) || !std::isfinite(weight)) {
    throw std::invalid_argument("a flow's weight must be positive and finite, got " +
                                std::to_string(weight));
  }
}

}  // namespace

double FairQueue::Class::Floor() {
  if (!awake.empty()) floor = std::max(floor, awake.begin()->first);
  return floor;
}

FairQueue::FairQueue(double best_effort_share, std::size_t quantum_bytes)
    : quantum_bytes_(static_cast<double>(quantum_bytes)),
      owed_per_byte_(best_effort_share / (1.0 - best_effort_share)) {
  if (!(best_effort_share >= 0.0 && best_effort_share < 1.0)) {
    throw std::invalid_argument("best_effort_share must be at least 0 and below 1, got " +
                                std::to_string(best_effort_share));
  }
  if (quantum_bytes == 0) throw std::invalid_argument("a quantum must be at least one byte");
}

int FairQueue::Add(double weight, bool latency) {
  CheckWeight(weight);
  Tree one;
  const int id = next_id_++;
  Flow flow{weight, 0.0, latency, one.extract(one.emplace(0.0, id).first)};
  flow.virtual_runtime = ClassOf(flow).Floor();
  flows_.emplace(id, std::move(flow));
  return id;
}

void FairQueue::Remove(int flow) {
  Sleep(flow);
  flows_.erase(flow);
}

void FairQueue::SetWeight(int id, double weight) {
  CheckWeight(weight);
  Flow& flow = flows_.at(id);
  Class& mine = ClassOf(flow);
  const double floor = mine.Floor();
  const bool awake = flow.node.empty();
  if (awake) Extract(mine, id, flow);
  const double ahead = flow.virtual_runtime - floor;
  if (ahead > 0.0) flow.virtual_runtime = floor + ahead * flow.weight / weight;
  flow.weight = weight;
  if (awake) Insert(mine, id, flow);
}

void FairQueue::Wake(int id) {
  Flow& flow = flows_.at(id);
  if (flow.node.empty()) return;
  Class& mine = ClassOf(flow);
  flow.virtual_runtime = std::max(flow.virtual_runtime, mine.Floor());
  Insert(mine, id, flow);
}

void FairQueue::Sleep(int id) {
  Flow& flow = flows_.at(id);
  if (!flow.node.empty()) return;
  Class& mine = ClassOf(flow);
  mine.Floor();
  Extract(mine, id, flow);
}

int FairQueue::Next() {
  if (latency_.awake.empty()) {
    if (!best_effort_.awake.empty()) return best_effort_.awake.begin()->second;
    owed_bytes_ = 0.0;
    return kNone;
  }
  if (!best_effort_.awake.empty() && owed_bytes_ >= kAlmost * quantum_bytes_) {
    return best_effort_.awake.begin()->second;
  }
  return latency_.awake.begin()->second;
}

void FairQueue::Charge(int id, std::size_t bytes) {
  Flow& flow = flows_.at(id);
  if (!flow.node.empty()) throw std::invalid_argument("a flow that sleeps can not be charged");
  const auto size = static_cast<double>(bytes);
  if (flow.latency) {
    if (!best_effort_.awake.empty()) owed_bytes_ += size * owed_per_byte_;
  } else {
    // After a turn that no latency flow wanted, the next latency flow waits for none.
    if (latency_.awake.empty()) owed_bytes_ = std::min(owed_bytes_, quantum_bytes_);
    owed_bytes_ = std::max(0.0, owed_bytes_ - size);
  }
  Class& mine = ClassOf(flow);
  Extract(mine, id, flow);
  flow.virtual_runtime += size / flow.weight;
  Insert(mine, id, flow);
  mine.Floor();
}

void FairQueue::Insert(Class& in, int id, Flow& flow) {
  flow.node.value() = {flow.virtual_runtime, id};
  in.awake.insert(std::move(flow.node));
}

void FairQueue::Extract(Class& from, int id, Flow& flow) {
  flow.node = from.awake.extract({flow.virtual_runtime, id});
}

}  // namespace missile
