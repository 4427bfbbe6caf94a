#include "gate.h"

#include <condition_variable>
#include <mutex>
#include <utility>

#include "../arbiter/tenant.h"
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

// Shares the device with other processes, as its arbiter says.
class Arbitrated : public Gate {
 public:
  explicit Arbitrated(arbiter::TenantOptions options) : tenant_(std::move(options)) {}

  bool Enter(const LaunchInfo& launch, std::int64_t deadline_ns) override {
    return tenant_.Enter(deadline_ns, launch.host_callback) != 0;
  }

  void Leave(const LaunchInfo& launch, std::int64_t device_ns) noexcept override {
    tenant_.Leave(device_ns, launch.host_callback);
  }

  void TellMemory(std::uint64_t used_bytes, std::uint64_t peak_bytes,
                  std::uint64_t limit_bytes) noexcept override {
    tenant_.TellMemory(used_bytes, peak_bytes, limit_bytes);
  }

 private:
  arbiter::Tenant tenant_;
};

}  // namespace

std::unique_ptr<Gate> MakeGate(const Options& options) {
  if (!options.arbiter.empty()) {
    arbiter::TenantOptions tenant;
    tenant.device = options.arbiter;
    tenant.name = options.tenant;
    tenant.latency = options.service_class == ServiceClass::kLatency;
    tenant.weight = options.weight;
    tenant.most_in_flight = static_cast<std::uint32_t>(options.launches);
    tenant.idle_threads = options.idle_threads;
    return std::make_unique<Arbitrated>(std::move(tenant));
  }
  return std::make_unique<Bound>(options.launches);
}

}  // namespace missile::pjrt
