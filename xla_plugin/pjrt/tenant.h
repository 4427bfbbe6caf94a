// A client of the wrapped plugin, as one tenant: its devices, their memory, its gate.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../src/arena.h"
#include "../src/colours.h"
#include "../src/link.h"
#include "account.h"
#include "api.h"
#include "gate.h"
#include "options.h"
#include "table.h"

namespace missile::pjrt {

// Its own part of a device.
struct TenantDevice {
  TenantDevice(const std::string& tenant, int ordinal, std::uint64_t limit_bytes)
      : ordinal(ordinal), account(tenant, ordinal, limit_bytes) {}

  const int ordinal;
  Memory* memory = nullptr;  // The device's default one.
  Account account;
  std::shared_ptr<Arena> arena;  // Null: uploads pass through.
  std::shared_ptr<Link> link;    // The device's, shared by all tenants of the process.
  std::shared_ptr<Flow> flow;    // This tenant's way over it.
  bool on_host = false;          // The processor writes the arena by itself.
  ColourSet colours;             // That its uploads may have. Set before the first one.

  ~TenantDevice();
};

class Tenant {
 public:
  // Throws what goes wrong with its arena, link and gate.
  Tenant(Client* client, Options options);
  ~Tenant();
  Tenant(const Tenant&) = delete;
  Tenant& operator=(const Tenant&) = delete;

  const Options& options() const { return options_; }
  Gate& gate() { return *gate_; }
  // When a launch that begins now has waited too long.
  std::int64_t Deadline() const;
  // A launch that ended now, having started at `started_ns`: how long the device worked on it, if
  // it does one after another.
  std::int64_t DeviceNs(std::int64_t started_ns, std::int64_t ended_ns);

 private:
  friend class Tenants;

  const Options options_;
  std::vector<std::pair<Device*, std::shared_ptr<TenantDevice>>> devices_;
  std::unique_ptr<Gate> gate_;
  std::atomic<std::int64_t> last_end_ns_{0};
};

std::shared_ptr<Tenant> FindTenant(const Client* client);
// Null for devices and memories that belong to no tenant, and for memories that are not a device's
// default one.
std::shared_ptr<TenantDevice> FindDevice(const Device* device);
std::shared_ptr<TenantDevice> FindMemory(const Memory* memory);

void OverrideClients(Table* table);

}  // namespace missile::pjrt
