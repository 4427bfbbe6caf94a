// Whose turn it is: completely fair scheduling of flows by weighted virtual run time.
#pragma once

#include <cstddef>
#include <set>
#include <unordered_map>
#include <utility>

namespace missile {

// Decides and accounts; knows no threads, no clock and no copies. Not thread-safe.
//
// A flow's virtual run time grows by bytes / weight, and the least one among the flows that are
// awake goes next. Latency flows go before best-effort ones, but not for ever: what latency flows
// take while best-effort work waits is counted, and once that owes best effort a whole quantum, it
// gets a turn. Nothing is owed for times when latency flows left the link idle.
//
// Only Add() allocates: a flow's tree node wanders between tree and flow.
class FairQueue {
 public:
  static constexpr int kNone = -1;

  // `best_effort_share` in [0, 1): of bytes, for all best-effort flows together. `quantum_bytes`:
  // the most that Charge() is told at once. Throws std::invalid_argument.
  FairQueue(double best_effort_share, std::size_t quantum_bytes);

  // A new flow, asleep. Identifiers are not used twice. Throws std::invalid_argument unless the
  // weight is positive and finite.
  int Add(double weight, bool latency);
  void Remove(int flow);
  // What the flow is ahead of its class stays the same in bytes.
  void SetWeight(int flow, double weight);

  // The flow has work now. It starts no earlier than the least virtual run time that is awake in
  // its class: sleep earns no credit, and does not pay back what was taken ahead.
  void Wake(int flow);
  void Sleep(int flow);

  // The flow to serve, or kNone if all are asleep.
  int Next();
  // Accounts `bytes` to a flow that is awake, before they move: the next worker must see them.
  void Charge(int flow, std::size_t bytes);

  bool empty() const { return latency_.awake.empty() && best_effort_.awake.empty(); }
  double VirtualRuntime(int flow) const { return flows_.at(flow).virtual_runtime; }

 private:
  // Equal virtual run times: the older flow first.
  using Tree = std::set<std::pair<double, int>>;

  struct Class {
    Tree awake;
    // The least virtual run time so far; never falls, and holds while all are asleep.
    double floor = 0.0;

    double Floor();
  };

  struct Flow {
    double weight;
    double virtual_runtime;
    bool latency;
    Tree::node_type node;  // Held here while asleep.
  };

  Class& ClassOf(const Flow& flow) { return flow.latency ? latency_ : best_effort_; }
  static void Insert(Class& in, int id, Flow& flow);
  static void Extract(Class& from, int id, Flow& flow);

  double quantum_bytes_;
  double owed_per_byte_;
  double owed_bytes_ = 0.0;
  int next_id_ = 0;
  Class latency_;
  Class best_effort_;
  std::unordered_map<int, Flow> flows_;
};

}  // namespace missile
