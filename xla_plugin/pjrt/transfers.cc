#include "transfers.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "buffers.h"
#include "gather.h"
#include "statistics.h"
#include "tenant.h"
#include "wrapped.h"

namespace missile::pjrt {
namespace {

// A transfer manager's buffers that nobody has retrieved yet.
struct Pending {
  std::shared_ptr<TenantDevice> device;
  std::vector<std::uint64_t> bytes;  // [buffer] 0 once it is a buffer of its own.
};

class Managers {
 public:
  void Add(const TransferManager* manager, Pending pending) {
    Count(statistics.managers_made);
    std::lock_guard lock(mutex_);
    managers_[manager] = std::move(pending);
  }
  // The charge goes over to the caller.
  std::pair<std::shared_ptr<TenantDevice>, std::uint64_t> Take(const TransferManager* manager,
                                                               int index) {
    std::lock_guard lock(mutex_);
    auto found = managers_.find(manager);
    if (found == managers_.end()) return {};
    std::vector<std::uint64_t>& bytes = found->second.bytes;
    const auto i = static_cast<std::size_t>(index);
    return {found->second.device, i < bytes.size() ? std::exchange(bytes[i], 0) : 0};
  }
  Pending Remove(const TransferManager* manager) {
    std::lock_guard lock(mutex_);
    auto found = managers_.find(manager);
    if (found == managers_.end()) return {};
    Pending pending = std::move(found->second);
    managers_.erase(found);
    Count(statistics.managers_ended);
    return pending;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const TransferManager*, Pending> managers_;
};

Managers& All() {
  static auto* const all = new Managers;  // Never ended: callbacks may come at the very end.
  return *all;
}

using CreateArgs = Arguments<Slot::kClientCreateBuffersForAsyncHostToDevice>;

Error* CreateBuffers(CreateArgs* args) {
  Pending pending{TargetOf(nullptr, args->memory), {}};
  if (pending.device == nullptr) {
    return wrapped->Call<Slot::kClientCreateBuffersForAsyncHostToDevice>(args);
  }
  std::uint64_t total_bytes = 0;
  for (std::size_t i = 0; i < args->num_shapes; ++i) {
    const ShapeSpec& shape = args->shapes[i];
    pending.bytes.push_back(
        ArrayBytes(shape.dims, shape.num_dims, ElementBits(shape.type)).value_or(0));
    total_bytes += pending.bytes.back();
  }
  if (Error* refused = ChargeBuffer(pending.device.get(), total_bytes, "a transfer")) {
    return refused;
  }
  Error* error = wrapped->Call<Slot::kClientCreateBuffersForAsyncHostToDevice>(args);
  if (error != nullptr) {
    pending.device->account.Release(total_bytes);
  } else {
    All().Add(args->manager, std::move(pending));
  }
  return error;
}

using RetrieveArgs = Arguments<Slot::kAsyncHostToDeviceTransferManagerRetrieveBuffer>;

Error* RetrieveBuffer(RetrieveArgs* args) {
  Error* error = wrapped->Call<Slot::kAsyncHostToDeviceTransferManagerRetrieveBuffer>(args);
  if (error != nullptr) return error;
  auto [device, bytes] = All().Take(args->manager, args->index);
  AddPassed(args->buffer, device, bytes);
  return nullptr;
}

Error* DestroyManager(Arguments<Slot::kAsyncHostToDeviceTransferManagerDestroy>* args) {
  const Pending pending = All().Remove(args->manager);
  for (std::uint64_t bytes : pending.bytes) pending.device->account.Release(bytes);
  return wrapped->Call<Slot::kAsyncHostToDeviceTransferManagerDestroy>(args);
}

// A copy that reads a view: holds its block from before the plugin is called. Ends itself.
class Read {
 public:
  // Null if the buffer views no block.
  static Read* Begin(const Buffer* source) {
    Placement* placement = HoldPlacement(source);
    return placement != nullptr ? new Read(placement) : nullptr;
  }
  Read(const Read&) = delete;
  Read& operator=(const Read&) = delete;

  // The plugin was called: the caller's `done` tells when the bytes have been read.
  void Follow(Event* done) {
    Question<Slot::kEventOnReady> ready;
    ready.event = done;
    ready.callback = [](Error* error, void* user) {
      wrapped->Drop(error);
      static_cast<Read*>(user)->End();
    };
    ready.user = this;
    if (done == nullptr || !Ask(&ready)) End();
  }
  // The plugin was called, and the copy is ready when the bytes have been read.
  void FollowCopy(Buffer* copy) {
    Question<Slot::kBufferReadyEvent> ready;
    ready.buffer = copy;
    own_event_ = Ask(&ready) ? ready.event : nullptr;
    Follow(own_event_);
  }
  // It did not start, or has ended.
  void End() { delete this; }

 private:
  explicit Read(Placement* placement) : placement_(placement) { Count(statistics.reads_made); }
  ~Read() {
    placement_->Drop();
    if (own_event_ != nullptr) {
      Question<Slot::kEventDestroy> destroy;
      destroy.event = own_event_;
      Ask(&destroy);
    }
    Count(statistics.reads_ended);
  }

  Placement* const placement_;
  Event* own_event_ = nullptr;
};

template <Slot slot>
Error* CopyToHost(Arguments<slot>* args) {
  Read* read = Read::Begin(args->buffer);
  Error* error = wrapped->Call<slot>(args);
  if (read == nullptr) return error;
  if (error != nullptr) {
    read->End();
  } else {
    read->Follow(args->done);
  }
  return error;
}

Error* ToHostBuffer(Arguments<Slot::kBufferToHostBuffer>* args) {
  if (args->data == nullptr) return wrapped->Call<Slot::kBufferToHostBuffer>(args);
  return CopyToHost(args);
}

// A copy to another device or memory, which are the tenant's or not. `copy` is where the plugin
// writes it.
template <Slot slot>
Error* CopyTo(Arguments<slot>* args, const std::shared_ptr<TenantDevice>& device) {
  const std::uint64_t bytes = device != nullptr ? DeviceBytes(args->buffer) : 0;
  if (device != nullptr) {
    if (Error* refused = ChargeBuffer(device.get(), bytes, "a copy")) return refused;
  }
  Read* read = Read::Begin(args->buffer);
  Error* error = wrapped->Call<slot>(args);
  if (error != nullptr) {
    if (read != nullptr) read->End();
    if (device != nullptr) device->account.Release(bytes);
    return error;
  }
  if (read != nullptr) read->FollowCopy(args->copy);
  AddPassed(args->copy, device, bytes);
  return nullptr;
}

Error* CopyToDevice(Arguments<Slot::kBufferCopyToDevice>* args) {
  return CopyTo(args, FindDevice(args->device));
}

Error* CopyToMemory(Arguments<Slot::kBufferCopyToMemory>* args) {
  return CopyTo(args, FindMemory(args->memory));
}

}  // namespace

void OverrideTransfers(Table* table) {
  table->Override<Slot::kClientCreateBuffersForAsyncHostToDevice>(CreateBuffers);
  table->Override<Slot::kAsyncHostToDeviceTransferManagerRetrieveBuffer>(RetrieveBuffer);
  table->Override<Slot::kAsyncHostToDeviceTransferManagerDestroy>(DestroyManager);
  table->Override<Slot::kBufferToHostBuffer>(ToHostBuffer);
  table->Override<Slot::kBufferCopyRawToHost>(CopyToHost<Slot::kBufferCopyRawToHost>);
  table->Override<Slot::kBufferCopyRawToHostFuture>(CopyToHost<Slot::kBufferCopyRawToHostFuture>);
  table->Override<Slot::kBufferCopyToDevice>(CopyToDevice);
  table->Override<Slot::kBufferCopyToMemory>(CopyToMemory);
}

}  // namespace missile::pjrt
