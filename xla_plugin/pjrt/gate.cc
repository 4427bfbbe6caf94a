#include "gate.h"

#include <condition_variable>
#include <mutex>
#include <stdexcept>

#include "../src/clock.h"

namespace missile::pjrt {
namespace {

// Bounds the launches in flight. One that runs code of the host may have launches within it, which
// can not wait for it: the bound does not hold as long as there is one.
class Bound : public Gate {
 public:
  explicit Bound(int launches) : launches_(launches) {}

  bool Enter(const LaunchInfo& launch, std::int64_t deadline_ns) override {
    std::unique_lock lock(mutex_);
    auto open = [this] { return in_flight_ < launches_ || callbacks_ > 0; };
    if (deadline_ns == kNoDeadline) {
      left_.wait(lock, open);
    } else if (!left_.wait_until(lock, TimePoint(deadline_ns), open)) {
      return false;
    }
    ++in_flight_;
    if (launch.host_callback) {
      ++callbacks_;
      left_.notify_all();
    }
    return true;
  }

  void Leave(const LaunchInfo& launch, std::int64_t /*device_ns*/) noexcept override {
    std::lock_guard lock(mutex_);
    --in_flight_;
    if (launch.host_callback) --callbacks_;
    left_.notify_one();
  }

 private:
  const int launches_;
  std::mutex mutex_;
  std::condition_variable left_;
  int in_flight_ = 0;
  int callbacks_ = 0;
};

}  // namespace

std::unique_ptr<Gate> MakeGate(const Options& options) {
  if (!options.arbiter.empty()) {
    throw std::runtime_error("there is no arbiter at " + options.arbiter);
  }
  return std::make_unique<Bound>(options.launches);
}

}  // namespace missile::pjrt
