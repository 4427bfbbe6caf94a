// What a tenant is told: by MISSILE_PJRT_* in its environment, or by options of its client.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace missile::pjrt {

enum class ServiceClass : std::uint8_t { kLatency, kBestEffort };

// An option NAME is MISSILE_PJRT_NAME in the environment, and missile_name among the options that a
// client is created with; these win.
struct Options {
  std::string tenant;  // TENANT: its name; the process's number if it is not given.
  ServiceClass service_class = ServiceClass::kBestEffort;  // CLASS: latency or best_effort.
  double weight = 1.0;                                     // WEIGHT: among its class.
  // MEMORY: what it may have of each device, such as 2GiB; 0 for no cap.
  std::uint64_t memory_bytes = 0;
  // ARENA: where uploads go, on each device; 0 for none.
  std::uint64_t arena_bytes = std::uint64_t{256} << 20;
  // LAUNCHES: at most so many are in flight.
  int launches = 32;
  // TIMEOUT_S: a launch fails after it has waited for its turn so long; 0 for never.
  double timeout_s = 0.0;
  // ARBITER: the name of the device whose arbiter decides who launches; empty for none.
  std::string arbiter;
  // IDLE: the threads of this process run when no others want a processor.
  bool idle_threads = false;
  // STATISTICS: an extension of the table tells what the wrapper did.
  bool statistics = false;
};

// The value of an option, or null. `name` is in capitals, such as MEMORY.
using Lookup = std::function<const std::string*(const std::string& name)>;

// Throws std::invalid_argument for a value that an option can not have.
Options ReadOptions(const Lookup& lookup);

// A size such as 512MiB, 2GiB or 1000000. Throws std::invalid_argument.
std::uint64_t ParseBytes(const std::string& text);

}  // namespace missile::pjrt
