#include "engine.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <iterator>
#include <stdexcept>

#include "clock.h"

namespace missile {
namespace {

// At its end a copy is shared out among the threads, down to pieces of this size.
constexpr std::size_t kLeastShareBytes = std::size_t{256} << 10;

}  // namespace

Engine::Engine(const LinkOptions& options)
    : options_(options),
      queue_(options.best_effort_share, options.chunk_bytes),
      history_(options.history) {
  if (options.threads < 1 || options.threads > 64) {
    throw std::invalid_argument("threads must be 1 to 64, got " + std::to_string(options.threads));
  }
  if (!(options.emulate_bytes_per_s >= 0.0) || !std::isfinite(options.emulate_bytes_per_s)) {
    throw std::invalid_argument("emulate_bytes_per_s must be 0 or a rate, got " +
                                std::to_string(options.emulate_bytes_per_s));
  }
  if (options.emulate_latency_ns < 0) {
    throw std::invalid_argument("emulate_latency_ns must be at least 0, got " +
                                std::to_string(options.emulate_latency_ns));
  }
  if (options.nice < 0 || options.nice > 19) {
    throw std::invalid_argument("nice must be 0 to 19, got " + std::to_string(options.nice));
  }
}

void Engine::Work(Mover& mover) {
  // A worker that plays a slow bus is not to take a core from what computes meanwhile.
  if (options_.emulate_bytes_per_s > 0.0) SleepExactly();
  // Of this thread, on Linux. To be nicer needs no permission.
  if (options_.nice > 0) (void)nice(options_.nice);
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    const int next = queue_.Next();
    if (next == FairQueue::kNone) {
      if (stopped_) break;
      ++idle_workers_;
      work_.wait(lock);
      --idle_workers_;
      continue;
    }
    // A shared pointer of our own: the queue may let go of the copy while it is in flight.
    const std::shared_ptr<Copy> copy = flows_.at(next)->waiting_.front();
    const Chunk chunk = Take(*copy);
    if (idle_workers_ > 0 && !queue_.empty()) work_.notify_one();
    lock.unlock();
    const std::string error = Move(mover, *copy, chunk);
    if (chunk.due_ns != 0) WaitUntilNs(chunk.due_ns);
    lock.lock();
    EndChunk(copy, chunk, error);
  }
}

Engine::Chunk Engine::Take(Copy& copy) {
  Flow& flow = *copy.flow_;
  const auto threads = static_cast<std::size_t>(options_.threads);
  const std::size_t share = std::max((copy.left_bytes_ + threads - 1) / threads, kLeastShareBytes);
  const std::size_t size_bytes = std::min({options_.chunk_bytes, copy.left_bytes_, share});
  Chunk chunk{copy.piece_, copy.offset_, size_bytes, 0};
  if (copy.times_.started_ns == 0) {
    copy.times_.started_ns = NowNs();
    copy.times_.waited_chunks = chunks_ - flow.chunks_ - copy.others_at_submit_;
    flow.waited_ns_ += copy.times_.started_ns - copy.times_.submitted_ns;
  }
  queue_.Charge(flow.id_, chunk.size_bytes);
  if (options_.emulate_bytes_per_s > 0.0) {
    // From when the bus was free, not from now: a worker that woke late costs no bandwidth.
    bus_free_ns_ +=
        std::llround(static_cast<double>(chunk.size_bytes) * 1e9 / options_.emulate_bytes_per_s);
    chunk.due_ns = bus_free_ns_;
  }
  std::size_t left = chunk.size_bytes;
  while (left > 0) {
    const std::size_t step = std::min(left, copy.pieces_[copy.piece_].size_bytes - copy.offset_);
    left -= step;
    copy.offset_ += step;
    if (copy.offset_ == copy.pieces_[copy.piece_].size_bytes) {
      ++copy.piece_;
      copy.offset_ = 0;
    }
  }
  copy.left_bytes_ -= chunk.size_bytes;
  ++copy.in_flight_;
  ++in_flight_;
  if (copy.left_bytes_ == 0) {
    flow.waiting_.erase(copy.place_);
    if (flow.waiting_.empty()) queue_.Sleep(flow.id_);
  }
  return chunk;
}

std::string Engine::Move(Mover& mover, const Copy& copy, const Chunk& chunk) {
  try {
    mover.Move(Steps(&copy.pieces_[chunk.piece], chunk.offset, chunk.size_bytes));
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

void Engine::EndChunk(const std::shared_ptr<Copy>& copy, const Chunk& chunk,
                      const std::string& error) {
  Flow& flow = *copy->flow_;
  flow.bytes_ += static_cast<std::int64_t>(chunk.size_bytes);
  ++flow.chunks_;
  if (!history_.empty()) {
    history_[static_cast<std::size_t>(chunks_) % history_.size()] = {
        flow.id_, static_cast<std::int64_t>(chunk.size_bytes), NowNs()};
  }
  ++chunks_;
  --in_flight_;
  --copy->in_flight_;
  if (!error.empty() && copy->error_.empty()) Abandon(*copy, error);
  if (copy->left_bytes_ > 0 || copy->in_flight_ > 0) return;
  if (options_.emulate_latency_ns > 0 && copy->error_.empty()) {
    delayed_.emplace_back(NowNs() + options_.emulate_latency_ns, copy);
    delay_.notify_one();
  } else {
    End(copy);
  }
}

void Engine::End(const std::shared_ptr<Copy>& copy) {
  copy->ended_ = true;
  copy->times_.ended_ns = NowNs();
  ++(copy->error_.empty() ? copy->flow_->copies_ : copy->flow_->cancelled_);
  copy->end_.notify_all();
  // A thread that waits for the copy drops its keeper sooner than one of ours could be woken.
  const Keeper* keeper = copy->keeper_.get();
  if (keeper != nullptr && (keeper->wants_end() || copy->waiting_threads_ == 0)) {
    ended_.push_back(copy);
    told_.notify_one();
  }
  if (--unfinished_ == 0 && stopped_) {
    told_.notify_one();
    delay_.notify_one();
  }
}

void Engine::Abandon(Copy& copy, const std::string& error) {
  copy.error_ = error;
  if (copy.left_bytes_ == 0) return;
  Flow& flow = *copy.flow_;
  copy.left_bytes_ = 0;
  flow.waiting_.erase(copy.place_);
  if (flow.waiting_.empty() && !flow.closed_) queue_.Sleep(flow.id_);
}

void Engine::Fail(const std::shared_ptr<Copy>& copy, const char* error) {
  Abandon(*copy, error);
  if (copy->in_flight_ == 0) End(copy);
}

void Engine::Shut(Flow& flow, const char* error) {
  flow.closed_ = true;
  queue_.Remove(flow.id_);
  while (!flow.waiting_.empty()) {
    const std::shared_ptr<Copy> copy = flow.waiting_.front();
    Fail(copy, error);
  }
}

void Engine::Tell() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    told_.wait(lock, [this] { return !ended_.empty() || (stopped_ && unfinished_ == 0); });
    if (ended_.empty()) return;
    std::shared_ptr<Copy> copy = std::move(ended_.front());
    ended_.pop_front();
    std::unique_ptr<Keeper> keeper = std::move(copy->keeper_);
    lock.unlock();
    if (keeper != nullptr && keeper->wants_end()) keeper->OnEnd(copy);
    keeper.reset();
    copy.reset();
    lock.lock();
  }
}

void Engine::Delay() {
  SleepExactly();
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    delay_.wait(lock, [this] { return !delayed_.empty() || (stopped_ && unfinished_ == 0); });
    if (delayed_.empty()) return;
    // In order of time, since the latency is the same for all.
    const auto [due_ns, copy] = std::move(delayed_.front());
    delayed_.pop_front();
    lock.unlock();
    WaitUntilNs(due_ns);
    lock.lock();
    End(copy);
  }
}

void Engine::Stop() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_) return;
  stopped_ = true;
  for (auto& [id, flow] : flows_) Shut(*flow, "the link was closed");
  flows_.clear();
  work_.notify_all();
  told_.notify_one();
  delay_.notify_one();
}

std::shared_ptr<Flow> Engine::AddFlow(const std::shared_ptr<Engine>& self, const std::string& name,
                                      double weight, bool latency) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_) throw std::runtime_error("the link is closed");
  for (const auto& [id, flow] : flows_) {
    if (flow->name_ == name) {
      throw std::invalid_argument("a flow named \"" + name + "\" is open already");
    }
  }
  const int id = queue_.Add(weight, latency);
  auto flow = std::make_shared<Flow>(self, id, name, weight, latency);
  flows_.emplace(id, flow);
  return flow;
}

void Engine::CloseFlow(Flow& flow) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (flow.closed_) return;
  Shut(flow, "the flow was closed");
  flows_.erase(flow.id_);
}

void Engine::SetWeight(Flow& flow, double weight) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (flow.closed_) throw std::runtime_error("the flow \"" + flow.name_ + "\" is closed");
  queue_.SetWeight(flow.id_, weight);
  flow.weight_ = weight;
}

double Engine::Weight(const Flow& flow) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return flow.weight_;
}

void Engine::Submit(const std::shared_ptr<Copy>& copy) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Flow& flow = *copy->flow_;
  if (flow.closed_) throw std::runtime_error("the flow \"" + flow.name_ + "\" is closed");
  const std::int64_t now_ns = NowNs();
  copy->times_.submitted_ns = now_ns;
  copy->others_at_submit_ = chunks_ - flow.chunks_;
  ++unfinished_;
  if (copy->left_bytes_ == 0) {
    copy->times_.started_ns = now_ns;
    End(copy);
    return;
  }
  // A bus that had nothing to do begins now, whenever a worker gets to it.
  if (queue_.empty() && in_flight_ == 0) bus_free_ns_ = std::max(bus_free_ns_, now_ns);
  flow.waiting_.push_back(copy);
  copy->place_ = std::prev(flow.waiting_.end());
  queue_.Wake(flow.id_);
  if (idle_workers_ > 0) work_.notify_one();
}

bool Engine::Cancel(const std::shared_ptr<Copy>& copy) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (copy->left_bytes_ > 0) Fail(copy, "the copy was cancelled");
  return !copy->error_.empty();
}

bool Engine::Wait(Copy& copy, std::int64_t timeout_ns) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (copy.ended_ || timeout_ns <= 0) return copy.ended_;
  ++copy.waiting_threads_;
  copy.end_.wait_until(lock, TimePoint(NowNs() + timeout_ns), [&copy] { return copy.ended_; });
  --copy.waiting_threads_;
  return copy.ended_;
}

std::unique_ptr<Keeper> Engine::TakeKeeper(Copy& copy) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool ours = copy.ended_ && copy.keeper_ != nullptr && !copy.keeper_->wants_end();
  return ours ? std::move(copy.keeper_) : nullptr;
}

bool Engine::Ended(const Copy& copy) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return copy.ended_;
}

std::string Engine::Error(const Copy& copy) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return copy.error_;
}

Copy::Times Engine::Times(const Copy& copy) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return copy.times_;
}

std::vector<FlowStats> Engine::Stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<FlowStats> all;
  all.reserve(flows_.size());
  for (const auto& [id, flow] : flows_) {
    all.push_back({flow->name_, id, flow->latency_, flow->weight_, flow->bytes_, flow->chunks_,
                   flow->copies_, flow->cancelled_, flow->waited_ns_, queue_.VirtualRuntime(id)});
  }
  return all;
}

std::vector<ChunkRecord> Engine::History(std::size_t most) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto seen = static_cast<std::size_t>(chunks_);
  const std::size_t count = std::min({most, seen, history_.size()});
  std::vector<ChunkRecord> last;
  last.reserve(count);
  for (std::size_t k = seen - count; k < seen; ++k) last.push_back(history_[k % history_.size()]);
  return last;
}

}  // namespace missile
