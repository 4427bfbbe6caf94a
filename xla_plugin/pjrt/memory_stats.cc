#include "memory_stats.h"

#include <cstddef>
#include <cstring>
#include <memory>

#include "tenant.h"
#include "wrapped.h"

namespace missile::pjrt {
namespace {

using StatsArgs = Arguments<Slot::kDeviceMemoryStats>;

void Set(Figure* figure, std::uint64_t value) {
  figure->value = static_cast<std::int64_t>(value);
  figure->is_set = true;
}

// All that it has of fields, known here or not, is output.
void Clear(StatsArgs* args) {
  constexpr std::size_t kFirst = offsetof(StatsArgs, bytes_in_use);
  std::memset(reinterpret_cast<char*>(args) + kFirst, 0, args->struct_size - kFirst);
}

Error* MemoryStats(StatsArgs* args) {
  const std::shared_ptr<TenantDevice> device = FindDevice(args->device);
  Error* error = wrapped->Call<Slot::kDeviceMemoryStats>(args);
  if (device == nullptr) return error;
  // A plugin that counts nothing refuses to tell, and sets nothing; the account does.
  if (error != nullptr) Clear(args);
  wrapped->Drop(error);
  const AccountStats stats = device->account.Stats();
  args->bytes_in_use = static_cast<std::int64_t>(stats.used_bytes);
  Set(&args->peak_bytes_in_use, stats.peak_bytes);
  Set(&args->num_allocs, stats.charges);
  Set(&args->largest_alloc_size, stats.largest_bytes);
  if (stats.limit_bytes != 0) Set(&args->bytes_limit, stats.limit_bytes);
  if (device->arena != nullptr && MISSILE_PJRT_HAS(args, peak_pool_bytes.is_set)) {
    const ArenaStats arena = device->arena->Stats();
    Set(&args->largest_free_block_bytes, arena.largest_free_bytes);
    Set(&args->pool_bytes, arena.size_bytes);
    Set(&args->peak_pool_bytes, arena.size_bytes);
  }
  return nullptr;
}

Error* ClearMemoryStats(Arguments<Slot::kDeviceClearMemoryStats>* args) {
  const std::shared_ptr<TenantDevice> device = FindDevice(args->device);
  Error* error = wrapped->Call<Slot::kDeviceClearMemoryStats>(args);
  if (device == nullptr) return error;
  wrapped->Drop(error);
  device->account.ResetPeak();
  return nullptr;
}

}  // namespace

void OverrideMemoryStats(Table* table) {
  table->Override<Slot::kDeviceMemoryStats>(MemoryStats);
  table->Override<Slot::kDeviceClearMemoryStats>(ClearMemoryStats);
}

}  // namespace missile::pjrt
