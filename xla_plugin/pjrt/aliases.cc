#include "aliases.h"

#include <memory>
#include <mutex>
#include <unordered_map>

#include "buffers.h"
#include "tenant.h"
#include "wrapped.h"

namespace missile::pjrt {
namespace {

// Aliases that are still to be fulfilled, by what does it.
class Promises {
 public:
  // Takes over the caller's hold of the placement.
  void Add(const Fulfilment* fulfilment, Placement* placement) {
    std::lock_guard lock(mutex_);
    placements_[fulfilment] = placement;
  }
  // The hold goes over to the caller. Null for what is no tenant's.
  Placement* Take(const Fulfilment* fulfilment) {
    std::lock_guard lock(mutex_);
    auto found = placements_.find(fulfilment);
    if (found == placements_.end()) return nullptr;
    Placement* placement = found->second;
    placements_.erase(found);
    return placement;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const Fulfilment*, Placement*> placements_;
};

Promises& All() {
  static auto* const all = new Promises;  // Never ended: callbacks may come at the very end.
  return *all;
}

Error* CreateAlias(Arguments<Slot::kClientCreateAliasBuffer>* args) {
  Error* error = wrapped->Call<Slot::kClientCreateAliasBuffer>(args);
  if (error != nullptr) return error;
  const std::shared_ptr<TenantDevice> device = FindMemory(args->memory);
  if (device == nullptr) return nullptr;
  auto* placement = new Placement;
  placement->Hold();
  AllBuffers().Add(args->alias, {device, 0, placement});
  All().Add(args->fulfilment, placement);
  return nullptr;
}

Error* FulfillAlias(Arguments<Slot::kClientFulfillAliasBuffer>* args) {
  // First: the plugin ends the fulfilment, and lets launches read the alias.
  Placement* alias = All().Take(args->fulfilment);
  if (alias != nullptr && args->status_code == 0) {
    AllBuffers().Find([&](auto find) {
      const BufferRecord* shown = find(args->buffer);
      if (shown == nullptr || shown->placement == nullptr || shown->placement == alias) return;
      alias->Show(shown->placement);
    });
  }
  Error* error = wrapped->Call<Slot::kClientFulfillAliasBuffer>(args);
  if (alias != nullptr) alias->Drop();
  return error;
}

}  // namespace

void OverrideAliases(Table* table) {
  table->Override<Slot::kClientCreateAliasBuffer>(CreateAlias);
  table->Override<Slot::kClientFulfillAliasBuffer>(FulfillAlias);
}

}  // namespace missile::pjrt
