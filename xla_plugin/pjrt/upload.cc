#include "upload.h"

#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "buffers.h"
#include "errors.h"
#include "gather.h"
#include "statistics.h"
#include "tenant.h"
#include "wrapped.h"

namespace missile::pjrt {
namespace {

using UploadArgs = Arguments<Slot::kClientBufferFromHostBuffer>;
using Reason = std::atomic<std::int64_t>;

// From here on a copy goes over the link, whose threads cost a small one more than it takes.
constexpr std::uint64_t kLinkBytes = std::uint64_t{1} << 20;

// Why an upload can not be placed, or null.
Reason* WhyNot(const TenantDevice& device, const UploadArgs& args, std::uint64_t bytes,
               const std::optional<Gather>& gather) {
  if (device.arena == nullptr) return &statistics.uploads_passed_off;
  if (WholeBits(args.type) == 0) return &statistics.uploads_passed_type;
  if (bytes == 0) return &statistics.uploads_passed_empty;
  if (args.semantics == Semantics::kMutableZeroCopy) return &statistics.uploads_passed_semantics;
  if (!gather.has_value()) return &statistics.uploads_passed_layout;
  return nullptr;
}

void CopyOverLink(const TenantDevice& device, std::byte* to, const std::byte* from,
                  std::uint64_t bytes) {
  std::shared_ptr<Copy> copy = device.flow->Submit({{to, from, bytes}}, nullptr);
  while (!copy->Wait(std::numeric_limits<std::int64_t>::max() / 4)) {
  }
  const std::string error = copy->error();
  if (!error.empty()) throw std::runtime_error(error);
  Count(statistics.uploads_linked_bytes, static_cast<std::int64_t>(bytes));
}

// The bytes are there when it returns, and the caller's are not needed any more.
void Fill(const TenantDevice& device, const Gather& gather, const std::byte* from, std::byte* to,
          std::uint64_t bytes) {
  if (!gather.dense && !device.on_host) {
    auto rows = std::make_unique<std::byte[]>(bytes);
    RunGather(gather, from, rows.get());
    CopyOverLink(device, to, rows.get(), bytes);
  } else if (!gather.dense) {
    RunGather(gather, from, to);
  } else if (!device.on_host || bytes >= kLinkBytes) {
    CopyOverLink(device, to, from, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
}

void EndView(void* /*data*/, void* placement) { static_cast<Placement*>(placement)->Drop(); }

// A view of the placement, which it holds; null if the plugin makes none.
Buffer* MakeView(const UploadArgs& args, Placement* placement) {
  Question<Slot::kClientCreateViewOfDeviceBuffer> view;
  view.client = args.client;
  view.data = placement->address();
  view.dims = args.dims;
  view.num_dims = args.num_dims;
  view.type = args.type;
  view.layout = args.layout;
  view.device = args.device;
  view.memory = args.memory;
  view.on_delete = EndView;
  view.on_delete_user = placement;
  placement->Hold();
  if (Ask(&view)) return view.buffer;
  placement->Drop();
  return nullptr;
}

// Null if the arena has no room of the tenant's colours.
std::unique_ptr<Block> AllocateBlock(const TenantDevice& device, std::uint64_t bytes) {
  if (bytes > device.arena->size_bytes()) return nullptr;
  return device.arena->Allocate(bytes, nullptr, device.colours);
}

// Places an upload whose bytes are charged. Returns why it could not, or null.
Reason* Place(const std::shared_ptr<TenantDevice>& device, const Gather& gather,
              std::uint64_t bytes, UploadArgs* args) {
  std::unique_ptr<Block> block = AllocateBlock(*device, bytes);
  if (block == nullptr) {
    return device->colours.all() ? &statistics.uploads_passed_full
                                 : &statistics.uploads_passed_colours;
  }
  Fill(*device, gather, static_cast<const std::byte*>(args->data), block->address(), bytes);
  auto* placement = new Placement(device, std::move(block));
  Buffer* view = MakeView(*args, placement);
  Question<Slot::kBufferReadyEvent> ready;
  ready.buffer = view;
  if (view == nullptr || !Ask(&ready)) {
    // Its charge ends with it, and is still wanted.
    device->account.Adjust(0, bytes);
    if (view != nullptr) {
      Question<Slot::kBufferDestroy> destroy;
      destroy.buffer = view;
      Ask(&destroy);
    }
    placement->Drop();
    return &statistics.uploads_passed_view;
  }
  args->buffer = view;
  args->done_with_host_buffer = ready.event;
  AllBuffers().Add(view, {device, 0, placement});
  Count(statistics.uploads_placed);
  Count(statistics.uploads_placed_bytes, static_cast<std::int64_t>(bytes));
  return nullptr;
}

Error* BufferFromHostBuffer(UploadArgs* args) {
  const std::shared_ptr<TenantDevice> device = TargetOf(args->device, args->memory);
  if (device == nullptr) {
    Count(statistics.uploads_passed_memory);
    return wrapped->Call<Slot::kClientBufferFromHostBuffer>(args);
  }
  const std::uint64_t bytes =
      ArrayBytes(args->dims, args->num_dims, ElementBits(args->type)).value_or(0);
  std::optional<Gather> gather;
  if (bytes != 0 && WholeBits(args->type) != 0) {
    gather =
        PlanGather(args->dims, args->num_dims, static_cast<std::size_t>(WholeBits(args->type) / 8),
                   args->byte_strides, args->num_byte_strides, args->layout);
  }
  if (Error* refused = ChargeBuffer(device.get(), bytes, "an upload")) return refused;
  Reason* reason = WhyNot(*device, *args, bytes, gather);
  if (reason == nullptr && gather.has_value()) {
    try {
      reason = Place(device, *gather, bytes, args);
    } catch (const std::exception& failure) {
      device->account.Release(bytes);
      return MakeError(Code::kInternal, std::string("an upload failed: ") + failure.what());
    }
    if (reason == nullptr) return nullptr;
  }
  Count(*reason);
  Error* error = wrapped->Call<Slot::kClientBufferFromHostBuffer>(args);
  if (error != nullptr) {
    device->account.Release(bytes);
  } else {
    AddPassed(args->buffer, device, bytes);
  }
  return error;
}

}  // namespace

void OverrideUploads(Table* table) {
  table->Override<Slot::kClientBufferFromHostBuffer>(BufferFromHostBuffer);
}

}  // namespace missile::pjrt
