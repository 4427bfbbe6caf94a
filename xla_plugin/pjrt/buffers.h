// Every buffer of the tenants: whose it is, how large, and whether it lies in an arena.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "../src/arena.h"
#include "api.h"
#include "table.h"
#include "tenant.h"

namespace missile::pjrt {

// A block of the arena that a buffer views. The space is free again when the last view is gone and
// the last launch or copy that took one has ended: each holds a reference.
class Placement {
 public:
  Placement(std::shared_ptr<TenantDevice> device, std::unique_ptr<Block> block);
  // Of an alias, which shows nothing yet.
  Placement();
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;

  void Hold() { references_.fetch_add(1, std::memory_order_relaxed); }
  void Drop() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  // An alias comes to show what has another placement, and holds that until it ends.
  void Show(Placement* shown) {
    shown->Hold();
    shown_ = shown;
  }
  std::byte* address() const { return block_->address(); }

 private:
  // Gives back what was charged for it.
  ~Placement();

  const std::shared_ptr<TenantDevice> device_;
  const std::unique_ptr<Block> block_;
  Placement* shown_ = nullptr;
  std::atomic<std::int64_t> references_{1};
};

struct BufferRecord {
  std::shared_ptr<TenantDevice> device;  // Null: no tenant's device memory.
  std::uint64_t bytes = 0;               // Charged for it alone: a placement has its own charge.
  Placement* placement = nullptr;        // The block that it views, held; or null.
};

class Buffers {
 public:
  // Takes over the caller's hold of the placement.
  void Add(const Buffer* buffer, BufferRecord record);
  // Gives back what was charged for it alone.
  void Remove(const Buffer* buffer);
  // Its memory is gone, the handle stays: it was deleted, or donated.
  void Release(const Buffer* buffer);
  // `to` has what `from` had.
  void Move(const Buffer* from, const Buffer* to);

  // `each` gets a function that finds one: a record, or null. It must not call anything else.
  template <typename Each>
  void Find(Each each) {
    std::lock_guard lock(mutex_);
    each([this](const Buffer* buffer) {
      auto found = records_.find(buffer);
      return found == records_.end() ? nullptr : &found->second;
    });
  }

 private:
  // Ends what a record stands for. Without the mutex: a placement's end takes the arena's.
  static void End(const BufferRecord& record);

  std::mutex mutex_;
  std::unordered_map<const Buffer*, BufferRecord> records_;
};

Buffers& AllBuffers();

// The block that a buffer views, held for the caller; null if it views none.
Placement* HoldPlacement(const Buffer* buffer);
// What a buffer takes of its device; 0 if the plugin does not tell.
std::uint64_t DeviceBytes(Buffer* buffer);
// Records a buffer that the plugin made, for which `charged_bytes` were taken before.
void AddPassed(Buffer* buffer, const std::shared_ptr<TenantDevice>& device,
               std::uint64_t charged_bytes);
// The device whose default memory a caller means, or null: for another memory, or no tenant's.
std::shared_ptr<TenantDevice> TargetOf(const Device* device, const Memory* memory);
// Charges for a buffer, or says that the tenant may not have it.
Error* ChargeBuffer(TenantDevice* device, std::uint64_t bytes, const char* purpose);

void OverrideBuffers(Table* table);

}  // namespace missile::pjrt
