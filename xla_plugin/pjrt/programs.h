// Executables that are loaded: what a launch of one needs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "api.h"
#include "donations.h"
#include "table.h"
#include "tenant.h"

namespace missile::pjrt {

// What a result takes of the device: found at the first launch.
struct OutputSize {
  bool on_device = false;
  std::uint64_t bytes = 0;
};

struct LoadedProgram {
  LoadedProgram();
  ~LoadedProgram();
  LoadedProgram(const LoadedProgram&) = delete;
  LoadedProgram& operator=(const LoadedProgram&) = delete;

  std::uint64_t number;  // Unique in the process.
  std::shared_ptr<Tenant> tenant;
  std::vector<std::shared_ptr<TenantDevice>> devices;
  std::size_t num_outputs = 0;
  std::uint64_t output_bytes = 0;  // As compiled, of one device.
  std::uint64_t temporary_bytes = 0;
  Donations donations;
  bool donations_known = true;
  // It may call back into the host.
  bool host_callback = false;
  // What launches took of the device, lately.
  std::atomic<std::int64_t> expected_ns{0};

  std::mutex mutex;
  std::vector<OutputSize> outputs;  // Empty until the first launch.
};

// Null for what was not loaded through this table.
std::shared_ptr<LoadedProgram> FindProgram(const LoadedExecutable* loaded);

void OverridePrograms(Table* table);

}  // namespace missile::pjrt
