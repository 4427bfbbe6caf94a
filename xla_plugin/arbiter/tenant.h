// A tenant of an arbiter: what a process asks before each launch.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "memory.h"
#include "page.h"

namespace missile::arbiter {

struct TenantOptions {
  std::string device;  // Those who name the same device share it.
  std::string name;
  bool latency = false;
  double weight = 1.0;
  // Best-effort launches that may be in flight at a time, 1 to 1024.
  std::uint32_t most_in_flight = 1;
  // BE: the scheduling class SCHED_IDLE for all threads of this process, and those they start
  // later. It yields its processors, and so its launches wait for no LS one.
  bool idle_threads = false;
  // BE: its launches run on threads of that class, whatever this process's others do.
  bool yields = false;
  // What to start where no arbiter runs; empty for `missile-arbiter` beside this library.
  std::string program;
};

// Announces LS launches, which never wait, and lets BE launches go when it is their turn. All
// methods may be called by any thread.
//
// A thread of its own, the keeper, sleeps until the arbiter ends, and then finds or starts another.
// Meanwhile LS launches go as ever; BE launches go while their turn lasts, wait for 100 ms after
// the arbiter was lost, and then go on with no more in flight than `most_in_flight`.
class Tenant {
 public:
  // Finds or starts the arbiter. Throws std::invalid_argument for options that are not allowed or
  // an arbiter that refuses this tenant, std::runtime_error where there is none to be had.
  explicit Tenant(TenantOptions options);
  ~Tenant();
  Tenant(const Tenant&) = delete;
  Tenant& operator=(const Tenant&) = delete;

  // Before a launch. BE: waits until it may go. Returns when it was let go, or 0 if that was not by
  // `deadline_ns` (NowNs() time). `nests`: code of the host runs within the launch
  // and may launch too. As long as there is one, launches are taken as part of it, and do not wait.
  std::int64_t Enter(std::int64_t deadline_ns, bool nests = false);
  // The launch has left the device, which worked `device_ns` on it. From any thread.
  void Leave(std::int64_t device_ns, bool nests = false);

  // What `missile top` shows of memory, in bytes; no limit is 0.
  void TellMemory(std::uint64_t used, std::uint64_t peak, std::uint64_t limit);

  bool connected() const { return lost_ns_.load() == 0; }
  std::int32_t arbiter_pid() const;
  const TenantPage& page() const { return *page_; }
  bool latency() const { return options_.latency; }

 private:
  // Where this tenant stands in the arbiter's page; 0 generation: nowhere.
  struct Place {
    std::uint32_t slot;
    std::uint32_t generation;
  };

  std::int64_t EnterLatency();
  std::int64_t WaitForTurn(std::int64_t deadline_ns);
  bool TryGo(std::int64_t now_ns, std::int64_t since_ns);
  bool MayGo(std::int64_t now_ns);
  void GoBack();
  void Ring();
  void Ask(std::int64_t now_ns);

  const Slot& slot() const;
  // Connected, or false if there is no arbiter. Throws std::invalid_argument if it refuses.
  bool Join();
  bool StartArbiter() const;
  bool FindArbiter();
  void FindFirstArbiter();
  void Keep();

  const TenantOptions options_;
  const std::string folder_;  // As the environment was when this tenant was made.
  const std::string path_;
  File page_file_;
  Mapping page_mapping_;
  TenantPage* page_;
  File bell_;

  // The arbiter's page is always mapped at this address, so that no reader needs a lock: another
  // arbiter's page takes the place of the last one's, which is empty at first.
  Mapping arbiter_mapping_;
  const ArbiterPage* arbiter_;
  std::atomic<std::uint64_t> place_{0};

  // When the arbiter was lost; 0 while it is there.
  std::atomic<std::int64_t> lost_ns_;
  // When a waiting launch last rang that is not known to have been heard; 0 for none.
  std::atomic<std::int64_t> asked_ns_{0};
  // When an arbiter that is there was found not to hear; 0 while it does.
  std::atomic<std::int64_t> hung_ns_{0};
  std::atomic<int> nests_{0};

  File socket_;
  File stop_;  // Ends the keeper.
  std::thread keeper_;
};

}  // namespace missile::arbiter
