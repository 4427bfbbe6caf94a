#include "buffers.h"

#include <utility>

#include "errors.h"
#include "gather.h"
#include "statistics.h"
#include "wrapped.h"

namespace missile::pjrt {

Placement::Placement(std::shared_ptr<TenantDevice> device, std::unique_ptr<Block> block)
    : device_(std::move(device)), block_(std::move(block)) {
  Count(statistics.placements_made);
}

Placement::Placement() { Count(statistics.placements_made); }

Placement::~Placement() {
  if (block_ != nullptr) device_->account.Release(block_->size_bytes());
  if (shown_ != nullptr) shown_->Drop();
  Count(statistics.placements_ended);
}

void Buffers::Add(const Buffer* buffer, BufferRecord record) {
  Count(statistics.records_made);
  std::lock_guard lock(mutex_);
  records_[buffer] = std::move(record);
}

void Buffers::End(const BufferRecord& record) {
  if (record.device != nullptr) record.device->account.Release(record.bytes);
  if (record.placement != nullptr) record.placement->Drop();
}

void Buffers::Remove(const Buffer* buffer) {
  BufferRecord record;
  {
    std::lock_guard lock(mutex_);
    auto found = records_.find(buffer);
    if (found == records_.end()) return;
    record = std::move(found->second);
    records_.erase(found);
  }
  Count(statistics.records_ended);
  End(record);
}

void Buffers::Release(const Buffer* buffer) {
  BufferRecord record;
  {
    std::lock_guard lock(mutex_);
    auto found = records_.find(buffer);
    if (found == records_.end()) return;
    record = std::exchange(found->second, BufferRecord{});
  }
  End(record);
}

void Buffers::Move(const Buffer* from, const Buffer* to) {
  std::lock_guard lock(mutex_);
  auto found = records_.find(from);
  if (found == records_.end()) return;
  BufferRecord record = std::exchange(found->second, BufferRecord{});
  records_[to] = std::move(record);
  Count(statistics.records_made);
}

Buffers& AllBuffers() {
  static auto* const all = new Buffers;  // Never ended: callbacks may come at the very end.
  return *all;
}

Placement* HoldPlacement(const Buffer* buffer) {
  Placement* placement = nullptr;
  AllBuffers().Find([&](auto find) {
    const BufferRecord* record = find(buffer);
    if (record == nullptr || record->placement == nullptr) return;
    placement = record->placement;
    placement->Hold();
  });
  return placement;
}

std::uint64_t DeviceBytes(Buffer* buffer) {
  Question<Slot::kBufferOnDeviceSizeInBytes> size;
  size.buffer = buffer;
  return Ask(&size) ? size.size_bytes : 0;
}

void AddPassed(Buffer* buffer, const std::shared_ptr<TenantDevice>& device,
               std::uint64_t charged_bytes) {
  if (device == nullptr) return;
  const std::uint64_t bytes = DeviceBytes(buffer);
  device->account.Adjust(charged_bytes, bytes);
  AllBuffers().Add(buffer, {device, bytes, nullptr});
}

std::shared_ptr<TenantDevice> TargetOf(const Device* device, const Memory* memory) {
  return memory != nullptr ? FindMemory(memory) : FindDevice(device);
}

Error* ChargeBuffer(TenantDevice* device, std::uint64_t bytes, const char* purpose) {
  if (device->account.Charge(bytes)) return nullptr;
  Count(statistics.buffers_refused);
  return MakeError(Code::kResourceExhausted, device->account.Refusal(purpose, bytes));
}

namespace {

Error* BufferDestroy(Arguments<Slot::kBufferDestroy>* args) {
  // First: the handle may be another buffer's as soon as the plugin has ended this one.
  AllBuffers().Remove(args->buffer);
  return wrapped->Call<Slot::kBufferDestroy>(args);
}

Error* BufferDelete(Arguments<Slot::kBufferDelete>* args) {
  Error* error = wrapped->Call<Slot::kBufferDelete>(args);
  if (error == nullptr) AllBuffers().Release(args->buffer);
  return error;
}

Error* CreateUninitialized(Arguments<Slot::kClientCreateUninitializedBuffer>* args) {
  const std::shared_ptr<TenantDevice> device = TargetOf(args->device, args->memory);
  const std::uint64_t bytes =
      ArrayBytes(args->dims, args->num_dims, ElementBits(args->type)).value_or(0);
  if (device != nullptr) {
    if (Error* refused = ChargeBuffer(device.get(), bytes, "a buffer")) return refused;
  }
  Error* error = wrapped->Call<Slot::kClientCreateUninitializedBuffer>(args);
  if (device == nullptr) return error;
  if (error != nullptr) {
    device->account.Release(bytes);
  } else {
    AddPassed(args->buffer, device, bytes);
  }
  return error;
}

// The new buffer has the old one's memory, and so its place in an arena.
Error* BufferBitcast(Arguments<Slot::kBufferBitcast>* args) {
  Error* error = wrapped->Call<Slot::kBufferBitcast>(args);
  if (error != nullptr) return error;
  BufferRecord record;
  AllBuffers().Find([&](auto find) {
    const BufferRecord* old = find(args->buffer);
    if (old == nullptr) return;
    record = {old->device, 0, old->placement};
    if (record.placement != nullptr) record.placement->Hold();
  });
  if (record.device != nullptr) AllBuffers().Add(args->out, std::move(record));
  return nullptr;
}

Error* DonateWithControlDependency(Arguments<Slot::kBufferDonateWithControlDependency>* args) {
  Error* error = wrapped->Call<Slot::kBufferDonateWithControlDependency>(args);
  if (error == nullptr) AllBuffers().Move(args->buffer, args->out);
  return error;
}

}  // namespace

void OverrideBuffers(Table* table) {
  table->Override<Slot::kBufferDestroy>(BufferDestroy);
  table->Override<Slot::kBufferDelete>(BufferDelete);
  table->Override<Slot::kClientCreateUninitializedBuffer>(CreateUninitialized);
  table->Override<Slot::kBufferBitcast>(BufferBitcast);
  table->Override<Slot::kBufferDonateWithControlDependency>(DonateWithControlDependency);
}

}  // namespace missile::pjrt
