// The link: one direction of one device's bus, shared by its tenants chunk by chunk.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "copy.h"
#include "mover.h"

namespace missile {

class Engine;
class Flow;

class Copy;

// Belongs to a copy until that has ended: holds on to its memory and may be told of its end.
// Called and destroyed without locks, on a thread of the link that copies nothing, or by whoever
// calls Copy::DropKeeper().
class Keeper {
 public:
  explicit Keeper(bool wants_end = false) : wants_end_(wants_end) {}
  virtual ~Keeper() = default;
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  bool wants_end() const { return wants_end_; }
  virtual void OnEnd(const std::shared_ptr<Copy>& /*copy*/) {}

 private:
  const bool wants_end_;
};

// A copy asked for by Flow::Submit(). All methods may be called from any thread, also after the
// link is gone.
class Copy : public std::enable_shared_from_this<Copy> {
 public:
  struct Times {
    std::int64_t submitted_ns = 0;
    std::int64_t started_ns = 0;  // 0 until then, as is ended_ns.
    std::int64_t ended_ns = 0;
    // Chunks of other flows that ended between submission and the first chunk.
    std::int64_t waited_chunks = 0;
  };

  Copy(std::shared_ptr<Flow> flow, std::vector<Piece> pieces, std::unique_ptr<Keeper> keeper);

  // Returns whether the copy has ended, well or not; waits for it up to `timeout_ns`.
  bool Wait(std::int64_t timeout_ns);
  // Returns whether the copy will stay incomplete. Chunks that were copied stay; the copy has
  // ended only when the chunks in flight have.
  bool Cancel();
  // Destroys the keeper here if the copy has ended and nobody else is about to.
  void DropKeeper();

  bool done() const;
  // Empty as long as nothing went wrong.
  std::string error() const;
  Times times() const;
  std::size_t size_bytes() const { return size_bytes_; }

 private:
  friend class Engine;

  const std::shared_ptr<Flow> flow_;
  const std::vector<Piece> pieces_;
  const std::size_t size_bytes_;

  // The rest is the engine's, behind its mutex.
  std::unique_ptr<Keeper> keeper_;
  std::list<std::shared_ptr<Copy>>::iterator place_;  // In the flow's queue while left_bytes_ > 0.
  std::size_t left_bytes_;                            // Not handed to a worker yet.
  std::size_t piece_ = 0;                             // Where the next chunk begins.
  std::size_t offset_ = 0;
  int in_flight_ = 0;
  int waiting_threads_ = 0;
  bool ended_ = false;
  std::string error_;
  Times times_;
  std::int64_t others_at_submit_ = 0;
  std::condition_variable end_;
};

struct FlowStats {
  std::string name;
  int id;
  bool latency;
  double weight;
  std::int64_t bytes;
  std::int64_t chunks;
  std::int64_t copies;  // That ended well.
  std::int64_t cancelled;
  std::int64_t waited_ns;
  double virtual_runtime;
};

// A tenant's way onto the link. Its copies are served in order, and at once with those of others.
class Flow : public std::enable_shared_from_this<Flow> {
 public:
  Flow(std::shared_ptr<Engine> engine, int id, std::string name, double weight, bool latency);

  // Throws std::runtime_error if the flow or the link is closed; the keeper is destroyed then.
  std::shared_ptr<Copy> Submit(std::vector<Piece> pieces, std::unique_ptr<Keeper> keeper);
  // Throws std::runtime_error if the flow is closed, std::invalid_argument for a bad weight.
  void SetWeight(double weight);
  double Weight() const;
  // Fails what still waits. Does nothing the second time.
  void Close();

  int id() const { return id_; }
  const std::string& name() const { return name_; }
  bool latency() const { return latency_; }

 private:
  friend class Engine;
  friend class Copy;

  // A circle with the engine's table of flows, which closing breaks.
  const std::shared_ptr<Engine> engine_;
  const int id_;
  const std::string name_;
  const bool latency_;

  // Behind the engine's mutex.
  bool closed_ = false;
  double weight_;
  std::list<std::shared_ptr<Copy>> waiting_;
  std::int64_t bytes_ = 0;
  std::int64_t chunks_ = 0;
  std::int64_t copies_ = 0;
  std::int64_t cancelled_ = 0;
  std::int64_t waited_ns_ = 0;
};

struct ChunkRecord {
  std::int64_t flow;
  std::int64_t bytes;
  std::int64_t ended_ns;
};

struct LinkOptions {
  std::size_t chunk_bytes = std::size_t{1} << 20;
  int threads = 1;  // Each has one chunk in flight.
  Stores stores = Stores::kPlain;
  double best_effort_share = 0.1;
  // A bus to play: 0 for none. The rate is that of all threads together.
  double emulate_bytes_per_s = 0.0;
  std::int64_t emulate_latency_ns = 0;
  std::size_t history = 0;  // Chunks that are remembered.
  int nice = 0;             // By how much the threads that copy are nicer, 0 to 19.
};

class Link {
 public:
  using MakeMover = std::function<std::unique_ptr<Mover>()>;

  // Throws std::invalid_argument for impossible options, std::system_error without threads, and
  // what `make` throws, which is called for each worker.
  Link(const LinkOptions& options, const MakeMover& make);
  // Within the host's memory.
  explicit Link(const LinkOptions& options);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // Names are unique among open flows. Throws std::invalid_argument, or std::runtime_error if the
  // link is closed.
  std::shared_ptr<Flow> AddFlow(const std::string& name, double weight, bool latency);

  // Fails what still waits, lets chunks in flight end, and returns once the threads are gone and
  // every keeper with them. From a keeper it only starts all that.
  void Close();

  std::vector<FlowStats> Stats() const;
  // The last chunks, oldest first.
  std::vector<ChunkRecord> History(std::size_t most) const;
  const LinkOptions& options() const;

 private:
  bool OnOwnThread() const;

  std::shared_ptr<Engine> engine_;
  std::mutex joining_;
  std::vector<std::thread> threads_;
  std::vector<std::thread::id> thread_ids_;  // Never changes: read without the mutex.
};

}  // namespace missile
