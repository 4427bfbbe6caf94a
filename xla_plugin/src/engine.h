// What moves the bytes of a Link: its state, and the loops of its threads.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fair.h"
#include "link.h"

namespace missile {

// Shared by the link, its flows and its threads, so that each may outlive the others. One mutex
// guards everything; it is not held while bytes move, nor while a keeper is called or destroyed,
// since keepers may want the GIL and holders of the GIL may want the mutex.
//
// No allocation for each chunk: queues change for each copy, the history has a fixed size.
class Engine {
 public:
  explicit Engine(const LinkOptions& options);

  // Thread bodies; all end after Stop(). Work() copies, chunk by chunk, each as `mover` does.
  // Tell() calls keepers. Delay() ends copies after the emulated latency.
  void Work(Mover& mover);
  void Tell();
  void Delay();
  void Stop();

  std::shared_ptr<Flow> AddFlow(const std::shared_ptr<Engine>& self, const std::string& name,
                                double weight, bool latency);
  void CloseFlow(Flow& flow);
  void SetWeight(Flow& flow, double weight);
  double Weight(const Flow& flow) const;
  void Submit(const std::shared_ptr<Copy>& copy);
  bool Cancel(const std::shared_ptr<Copy>& copy);
  bool Wait(Copy& copy, std::int64_t timeout_ns);
  std::unique_ptr<Keeper> TakeKeeper(Copy& copy);
  bool Ended(const Copy& copy) const;
  std::string Error(const Copy& copy) const;
  Copy::Times Times(const Copy& copy) const;

  std::vector<FlowStats> Stats() const;
  std::vector<ChunkRecord> History(std::size_t most) const;
  const LinkOptions& options() const { return options_; }

 private:
  // A part of a copy for one worker.
  struct Chunk {
    std::size_t piece;
    std::size_t offset;
    std::size_t size_bytes;
    std::int64_t due_ns;  // The emulated bus has moved it then.
  };

  // All but Move() are called with the mutex held. Errors are empty if there is none.
  Chunk Take(Copy& copy);
  static std::string Move(Mover& mover, const Copy& copy, const Chunk& chunk);
  void EndChunk(const std::shared_ptr<Copy>& copy, const Chunk& chunk, const std::string& error);
  void End(const std::shared_ptr<Copy>& copy);
  // Takes no further chunks of a copy.
  void Abandon(Copy& copy, const std::string& error);
  void Fail(const std::shared_ptr<Copy>& copy, const char* error);
  void Shut(Flow& flow, const char* error);

  const LinkOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable work_;   // A flow woke up.
  std::condition_variable told_;   // A copy with a keeper ended.
  std::condition_variable delay_;  // A copy is to end later.

  FairQueue queue_;
  std::unordered_map<int, std::shared_ptr<Flow>> flows_;
  std::deque<std::shared_ptr<Copy>> ended_;  // With keepers to call or destroy.
  std::deque<std::pair<std::int64_t, std::shared_ptr<Copy>>> delayed_;  // By when they end.
  bool stopped_ = false;
  std::int64_t unfinished_ = 0;  // Copies that were submitted and have not ended.
  int idle_workers_ = 0;
  int in_flight_ = 0;
  std::int64_t bus_free_ns_ = 0;
  std::int64_t chunks_ = 0;
  std::vector<ChunkRecord> history_;  // Chunk k is at k % size.
};

}  // namespace missile
