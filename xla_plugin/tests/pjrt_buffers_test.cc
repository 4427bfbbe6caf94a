#include "pjrt_buffers_test.h"

#include <atomic>
#include <cstring>
#include <memory>

#include "../pjrt/statistics.h"
#include "../pjrt/tenant.h"

namespace missile::pjrt::test {
namespace {

constexpr int kS32 = 4;
constexpr int kS4 = 21;

struct Transfer {
  Transfer(Client* client, const std::vector<std::int64_t>& lengths, int type) {
    for (const std::int64_t& length : lengths) {
      shapes.push_back({sizeof(ShapeSpec), nullptr, &length, 1, type});
    }
    create.client = client;
    create.shapes = shapes.data();
    create.num_shapes = shapes.size();
    create.memory = MemoryOf(client);
  }

  std::vector<ShapeSpec> shapes;
  Question<Slot::kClientCreateBuffersForAsyncHostToDevice> create;
};

TransferManager* MakeManager(const Plugin& plugin, Client* client,
                             const std::vector<std::int64_t>& lengths) {
  Transfer transfer(client, lengths, kF32);
  plugin.Call(&transfer.create);
  return transfer.create.manager;
}

void Send(const Plugin& plugin, TransferManager* manager, int index, const float* data,
          std::int64_t first, std::int64_t count, bool last) {
  Question<Slot::kAsyncHostToDeviceTransferManagerTransferData> send;
  send.manager = manager;
  send.index = index;
  send.data = data + first;
  send.offset_bytes = first * static_cast<std::int64_t>(sizeof(float));
  send.size_bytes = count * static_cast<std::int64_t>(sizeof(float));
  send.last = last;
  plugin.Call(&send);
  DestroyEvent(plugin, send.done);
}

Buffer* Retrieve(const Plugin& plugin, TransferManager* manager, int index) {
  Question<Slot::kAsyncHostToDeviceTransferManagerRetrieveBuffer> retrieve;
  retrieve.manager = manager;
  retrieve.index = index;
  plugin.Call(&retrieve);
  return retrieve.buffer;
}

void DestroyManager(const Plugin& plugin, TransferManager* manager) {
  Question<Slot::kAsyncHostToDeviceTransferManagerDestroy> destroy;
  destroy.manager = manager;
  plugin.Call(&destroy);
}

}  // namespace

void CheckTransfers(const Plugin& plugin, Bytes bytes_of) {
  Client* client = MakeClient(plugin, {{"missile_memory", "10000"}, {"missile_tenant", "mover"}});
  auto used = [&] { return UsedBytes(plugin, client); };
  TransferManager* manager = MakeManager(plugin, client, {1000, 500});
  Require(used() == 6000, "a manager's buffers were not charged when it was made");

  const std::vector<std::int64_t> too_many{1000, 1};
  Transfer refused(client, too_many, kF32);
  Require(plugin.Refusal(&refused.create) ==
              "missile: tenant 'mover' asks for 4004 bytes of device 0 for a transfer; it has "
              "6000 of the 10000 that MISSILE_PJRT_MEMORY allows, 0 of them temporaries of "
              "launches in flight",
          "a transfer over the cap was not refused");
  const std::vector<std::int64_t> few{10};
  Transfer unknown(client, few, kS32);
  Require(plugin.Refusal(&unknown.create) == "no transfers of this type", "another error");
  Require(used() == 6000, "what was refused stays charged");

  std::vector<float> values(1000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  Send(plugin, manager, 0, values.data(), 0, 300, false);
  Send(plugin, manager, 0, values.data(), 300, 700, true);
  Buffer* retrieved = Retrieve(plugin, manager, 0);
  Require(used() == 6000, "a buffer was charged twice, or not at all, when it was retrieved");
  Require(std::memcmp(bytes_of(retrieved), values.data(), 4000) == 0, "a transfer lost bytes");
  Question<Slot::kAsyncHostToDeviceTransferManagerRetrieveBuffer> again;
  again.manager = manager;
  Require(plugin.Refusal(&again) == "retrieved before", "another error");
  Destroy(plugin, retrieved);
  Require(used() == 2000, "a retrieved buffer's charge did not end with it");
  DestroyManager(plugin, manager);
  Require(used() == 0, "a buffer that nobody retrieved stays charged");

  manager = MakeManager(plugin, client, {2000, 500});
  retrieved = Retrieve(plugin, manager, 1);
  DestroyManager(plugin, manager);
  Require(used() == 2000, "a retrieved buffer's charge ended with its manager");
  Destroy(plugin, retrieved);
  Require(used() == 0, "a retrieved buffer stays charged");
  DestroyClient(plugin, client);
  Require(statistics.managers_made == 2 && statistics.managers_ended == 2,
          "managers were not counted");
}

void CheckAliases(const Plugin& plugin, Bytes bytes_of, void (*pause)(bool)) {
  Client* client = MakeClient(plugin, {{"missile_arena", "4KiB"}});
  LoadedExecutable* donating = Compile(plugin, client, "copy, buffer_donor");
  const std::vector<float> values(1000, 3.0F);
  pause(true);
  Alias alias = MakeAlias(plugin, client, 1000);
  Require(UsedBytes(plugin, client) == 0, "an alias was charged");
  std::promise<void> end;
  const std::int64_t kept = statistics.views_kept_from_donation;
  Buffer* result = Launch(plugin, donating, alias.buffer, &end);
  Require(statistics.views_kept_from_donation == kept + 1, "an alias was donated");
  Buffer* view = Upload(plugin, client, values);
  Fulfill(plugin, client, alias, view);
  Destroy(plugin, view);
  Destroy(plugin, alias.buffer);
  const std::int64_t full = statistics.uploads_passed_full;
  Buffer* other = Upload(plugin, client, std::vector<float>(1000, -1.0F));
  Require(statistics.uploads_passed_full == full + 1,
          "a block was free that a launch was still to read");
  pause(false);
  end.get_future().wait();
  Require(std::memcmp(bytes_of(result), values.data(), 4000) == 0,
          "an alias did not show what it was fulfilled with");
  for (Buffer* buffer : {result, other}) Destroy(plugin, buffer);

  alias = MakeAlias(plugin, client, 10);
  Question<Slot::kClientFulfillAliasBuffer> fulfill;
  fulfill.client = client;
  fulfill.status_code = static_cast<int>(Code::kInternal);
  fulfill.message = "none came";
  fulfill.message_size = std::strlen(fulfill.message);
  fulfill.fulfilment = alias.fulfilment;
  Require(plugin.Refusal(&fulfill) == "none came", "another error");
  Destroy(plugin, alias.buffer);
  Question<Slot::kLoadedExecutableDestroy> destroy;
  destroy.loaded = donating;
  plugin.Call(&destroy);
  DestroyClient(plugin, client);
}

namespace {

std::vector<std::int64_t> UploadCounts() {
  const Statistics& s = statistics;
  return {s.uploads_placed,           s.uploads_passed_off,    s.uploads_passed_empty,
          s.uploads_passed_type,      s.uploads_passed_memory, s.uploads_passed_layout,
          s.uploads_passed_semantics, s.uploads_passed_full,   s.uploads_passed_view,
          s.uploads_passed_colours};
}

// An upload of 100 numbers, changed by `change`, raises `count` by one and no other.
template <typename Change>
void CheckCounted(const Plugin& plugin, Client* client, const std::atomic<std::int64_t>& count,
                  const char* what, const Change& change) {
  const std::vector<std::int64_t> before = UploadCounts();
  const std::int64_t one_before = count;
  const std::vector<float> values(100);
  std::int64_t size = 100;
  auto upload = UploadOf(client, values.data(), &size);
  change(&upload, &size);
  plugin.Call(&upload);
  DestroyEvent(plugin, upload.done_with_host_buffer);
  Destroy(plugin, upload.buffer);
  const std::vector<std::int64_t> after = UploadCounts();
  std::int64_t risen = 0;
  for (std::size_t i = 0; i < after.size(); ++i) risen += after[i] - before[i];
  Require(count == one_before + 1 && risen == 1, what);
  Require(UsedBytes(plugin, client) == 0, what);
}

}  // namespace

void CheckCounts(const Plugin& plugin) {
  using Args = Question<Slot::kClientBufferFromHostBuffer>;
  Statistics& s = statistics;
  auto as_it_is = [](Args*, std::int64_t*) {};
  Client* client = MakeClient(plugin, {{"missile_arena", "512"}});
  auto check = [&](const std::atomic<std::int64_t>& count, const char* what, auto change) {
    CheckCounted(plugin, client, count, what, change);
  };
  check(s.uploads_placed, "plain", as_it_is);
  check(s.uploads_passed_empty, "empty", [](Args*, std::int64_t* size) { *size = 0; });
  check(s.uploads_passed_type, "packed", [](Args* upload, std::int64_t*) { upload->type = kS4; });
  check(s.uploads_passed_view, "without views",
        [](Args* upload, std::int64_t*) { upload->type = kS32; });
  check(s.uploads_passed_semantics, "shared",
        [](Args* upload, std::int64_t*) { upload->semantics = Semantics::kMutableZeroCopy; });
  check(s.uploads_placed, "perhaps shared",
        [](Args* upload, std::int64_t*) { upload->semantics = Semantics::kImmutableZeroCopy; });
  int elsewhere = 0;
  check(s.uploads_passed_memory, "into another memory", [&](Args* upload, std::int64_t*) {
    upload->memory = reinterpret_cast<Memory*>(&elsewhere);
  });

  Layout layout{};
  const std::int64_t order[] = {0};
  layout.struct_size = sizeof(layout);
  layout.tiled.minor_to_major = order;
  layout.tiled.num_dims = 1;
  auto with_layout = [&](Args* upload, std::int64_t*) { upload->layout = &layout; };
  check(s.uploads_placed, "in a layout without tiles", with_layout);
  const std::int64_t tile[] = {10};
  const std::size_t tile_sizes[] = {1};
  layout.tiled.tile_dims = tile;
  layout.tiled.tile_dim_sizes = tile_sizes;
  layout.tiled.num_tiles = 1;
  check(s.uploads_passed_layout, "in a tiled layout", with_layout);
  layout = {};
  layout.struct_size = sizeof(layout);
  layout.type = LayoutType::kStrides;
  check(s.uploads_passed_layout, "in a layout by strides", with_layout);
  const std::int64_t strides[] = {4, 4};
  check(s.uploads_passed_layout, "with strides of another rank", [&](Args* upload, std::int64_t*) {
    upload->byte_strides = strides;
    upload->num_byte_strides = 2;
  });

  const std::shared_ptr<TenantDevice> device = FindDevice(DeviceOf(client));
  device->colours = ColourSet({0, 2});
  check(s.uploads_passed_colours, "of some colours alone", as_it_is);
  device->colours = ColourSet();
  check(s.uploads_placed, "of all colours again", as_it_is);
  check(s.uploads_passed_full, "larger than the arena", [&](Args* upload, std::int64_t* size) {
    static const std::vector<float> many(200);
    upload->data = many.data();
    *size = 200;
  });
  DestroyClient(plugin, client);

  client = MakeClient(plugin, {{"missile_arena", "0"}});
  CheckCounted(plugin, client, s.uploads_passed_off, "without an arena", as_it_is);
  DestroyClient(plugin, client);
}

}  // namespace missile::pjrt::test
