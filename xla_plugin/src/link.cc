#include "link.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine.h"

namespace missile {

Copy::Copy(std::shared_ptr<Flow> flow, std::vector<Piece> pieces, std::unique_ptr<Keeper> keeper)
    : flow_(std::move(flow)),
      pieces_(std::move(pieces)),
      size_bytes_(
          std::accumulate(pieces_.begin(), pieces_.end(), std::size_t{0},
                          [](std::size_t sum, const Piece& p) { return sum + p.size_bytes; })),
      keeper_(std::move(keeper)),
      left_bytes_(size_bytes_) {}

bool Copy::Wait(std::int64_t timeout_ns) { return flow_->engine_->Wait(*this, timeout_ns); }

bool Copy::Cancel() { return flow_->engine_->Cancel(shared_from_this()); }

void Copy::DropKeeper() { flow_->engine_->TakeKeeper(*this).reset(); }

bool Copy::done() const { return flow_->engine_->Ended(*this); }

std::string Copy::error() const { return flow_->engine_->Error(*this); }

Copy::Times Copy::times() const { return flow_->engine_->Times(*this); }

Flow::Flow(std::shared_ptr<Engine> engine, int id, std::string name, double weight, bool latency)
    : engine_(std::move(engine)),
      id_(id),
      name_(std::move(name)),
      latency_(latency),
      weight_(weight) {}

std::shared_ptr<Copy> Flow::Submit(std::vector<Piece> pieces, std::unique_ptr<Keeper> keeper) {
  // Workers walk over pieces and rely on each having bytes.
  pieces.erase(std::remove_if(pieces.begin(), pieces.end(),
                              [](const Piece& piece) { return piece.size_bytes == 0; }),
               pieces.end());
  auto copy = std::make_shared<Copy>(shared_from_this(), std::move(pieces), std::move(keeper));
  engine_->Submit(copy);
  return copy;
}

void Flow::SetWeight(double weight) { engine_->SetWeight(*this, weight); }

double Flow::Weight() const { return engine_->Weight(*this); }

void Flow::Close() { engine_->CloseFlow(*this); }

Link::Link(const LinkOptions& options)
    : Link(options, [stores = options.stores] { return std::make_unique<HostMover>(stores); }) {}

Link::Link(const LinkOptions& options, const MakeMover& make)
    : engine_(std::make_shared<Engine>(options)) {
  // Threads share the engine, so that one that could not be joined does no harm.
  auto start = [this](auto body) {
    threads_.emplace_back([engine = engine_, body = std::move(body)] { body(*engine); });
    thread_ids_.push_back(threads_.back().get_id());
  };
  try {
    for (int k = 0; k < options.threads; ++k) {
      start([mover = std::shared_ptr<Mover>(make())](Engine& engine) { engine.Work(*mover); });
    }
    if (options.emulate_latency_ns > 0) start([](Engine& engine) { engine.Delay(); });
    start([](Engine& engine) { engine.Tell(); });
  } catch (...) {
    Close();
    throw;
  }
}

Link::~Link() {
  Close();
  // A keeper dropped the last reference: this is its thread, which ends once the keeper returns.
  for (std::thread& thread : threads_) {
    if (!thread.joinable()) continue;
    if (thread.get_id() == std::this_thread::get_id()) {
      thread.detach();
    } else {
      thread.join();
    }
  }
}

std::shared_ptr<Flow> Link::AddFlow(const std::string& name, double weight, bool latency) {
  return engine_->AddFlow(engine_, name, weight, latency);
}

void Link::Close() {
  engine_->Stop();
  if (OnOwnThread()) return;
  const std::lock_guard<std::mutex> lock(joining_);
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

bool Link::OnOwnThread() const {
  return std::find(thread_ids_.begin(), thread_ids_.end(), std::this_thread::get_id()) !=
         thread_ids_.end();
}

std::vector<FlowStats> Link::Stats() const { return engine_->Stats(); }

std::vector<ChunkRecord> Link::History(std::size_t most) const { return engine_->History(most); }

const LinkOptions& Link::options() const { return engine_->options(); }

}  // namespace missile
