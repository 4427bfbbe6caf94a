// Who may launch, and when.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "options.h"

namespace missile::pjrt {

// One Execute call, on one device or several.
struct LaunchInfo {
  std::uint64_t launch = 0;      // Its number: unique in the process, ascending.
  std::uint64_t executable = 0;  // The executable's number: unique in the process.
  int devices = 1;
  // What earlier launches of this executable took of the device; 0 as long as none has ended.
  std::int64_t expected_ns = 0;
  // Code of the host runs within it, and may launch too. Such launches end before this one does, so
  // they must not wait for it.
  bool host_callback = false;
};

inline constexpr std::int64_t kNoDeadline = std::numeric_limits<std::int64_t>::max();

// One for each client. Safe on any thread.
class Gate {
 public:
  Gate() = default;
  virtual ~Gate() = default;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Blocks until this launch may go, or the clock of NowNs() has reached `deadline_ns`. Returns
  // whether it may. Called without locks; the device's work is enqueued right after.
  virtual bool Enter(const LaunchInfo& launch, std::int64_t deadline_ns) = 0;
  // Called once for each Enter() that returned true: when the device has done the launch's work, or
  // when it failed to start. From any thread, also one of the device's: it must not block long.
  // `device_ns`: how long the device worked on it, without the time behind earlier launches of this
  // client; 0 if it failed to start.
  virtual void Leave(const LaunchInfo& launch, std::int64_t device_ns) noexcept = 0;
  // What this tenant has of its first device now, for others to see. No limit is 0.
  virtual void TellMemory(std::uint64_t /*used_bytes*/, std::uint64_t /*peak_bytes*/,
                          std::uint64_t /*limit_bytes*/) noexcept {}
};

// By `options.arbiter` the arbiter's, else one that bounds the launches in flight by
// `options.launches`. Throws std::runtime_error if there is no arbiter to be had, and
// std::invalid_argument if it refuses this tenant.
std::unique_ptr<Gate> MakeGate(const Options& options);

}  // namespace missile::pjrt
