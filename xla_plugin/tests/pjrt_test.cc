// Four threads upload, launch, donate and drop through the wrapper's table, over a plugin that
// reads arguments after their handles are gone. No Python: run under sanitizers by
// tests/plugin/test_plugin_native.py, which builds the plugin that argv[1] names. Exits with 0 if
// every result was right and nothing is left.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../pjrt/account.h"
#include "../pjrt/donations.h"
#include "../pjrt/gate.h"
#include "../pjrt/options.h"
#include "../pjrt/statistics.h"
#include "../pjrt/tenant.h"
#include "../pjrt/wrapped.h"
#include "../src/clock.h"

extern "C" const missile::pjrt::Api* GetPjrtApi();

namespace {

using namespace missile::pjrt;  // NOLINT(google-build-using-namespace)

constexpr int kThreads = 4;
constexpr int kSteps = 1500;
constexpr int kBound = 3;
constexpr int kS32 = 4;
constexpr int kF32 = 11;
constexpr int kS4 = 21;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "pjrt_test: %s\n", what);
  std::abort();
}

// The wrapper's table, called as any caller does.
class Plugin {
 public:
  explicit Plugin(const Api* api) : table_(api) {}

  template <Slot slot>
  void Call(Question<slot>* question) const {
    Error* error = table_.Call<slot>(question);
    if (error == nullptr) return;
    std::fprintf(stderr, "%s\n", table_.TakeMessage(error).c_str());
    std::abort();
  }
  template <Slot slot>
  std::string Refusal(Question<slot>* question) const {
    Error* error = table_.Call<slot>(question);
    Require(error != nullptr, "a call succeeded that must not");
    return table_.TakeMessage(error);
  }

 private:
  const Wrapped table_;
};

Client* MakeClient(const Plugin& plugin,
                   const std::vector<std::pair<std::string, std::string>>& in) {
  std::vector<NamedValue> options;
  for (const auto& [name, value] : in) {
    NamedValue option{};
    option.struct_size = sizeof(option);
    option.name = name.c_str();
    option.name_size = name.size();
    option.type = NamedValueType::kString;
    option.string_value = value.c_str();
    option.value_size = value.size();
    options.push_back(option);
  }
  Question<Slot::kClientCreate> create;
  create.options = options.data();
  create.num_options = options.size();
  plugin.Call(&create);
  return create.client;
}

LoadedExecutable* Compile(const Plugin& plugin, Client* client, std::string code) {
  Program program{};
  program.struct_size = sizeof(program);
  program.code = code.data();
  program.code_size = code.size();
  program.format = "mlir";
  program.format_size = 4;
  Question<Slot::kClientCompile> compile;
  compile.client = client;
  compile.program = &program;
  plugin.Call(&compile);
  return compile.executable;
}

Device* DeviceOf(Client* client) {
  Question<Slot::kClientAddressableDevices> devices;
  devices.client = client;
  wrapped->Call<Slot::kClientAddressableDevices>(&devices);
  return devices.devices[0];
}

Question<Slot::kClientBufferFromHostBuffer> UploadOf(Client* client, const float* data,
                                                     const std::int64_t* dims) {
  Question<Slot::kClientBufferFromHostBuffer> upload;
  upload.client = client;
  upload.data = data;
  upload.type = kF32;
  upload.dims = dims;
  upload.num_dims = 1;
  upload.device = DeviceOf(client);
  return upload;
}

void Destroy(const Plugin& plugin, Buffer* buffer) {
  Question<Slot::kBufferDestroy> destroy;
  destroy.buffer = buffer;
  plugin.Call(&destroy);
}

void DestroyEvent(const Plugin& plugin, Event* event) {
  Question<Slot::kEventDestroy> destroy;
  destroy.event = event;
  plugin.Call(&destroy);
}

Buffer* Upload(const Plugin& plugin, Client* client, const std::vector<float>& values) {
  const auto size = static_cast<std::int64_t>(values.size());
  auto upload = UploadOf(client, values.data(), &size);
  plugin.Call(&upload);
  DestroyEvent(plugin, upload.done_with_host_buffer);
  return upload.buffer;
}

// A launch of one argument; waits for its end if `wait`, and asks for no event if not.
Buffer* Launch(const Plugin& plugin, LoadedExecutable* loaded, Buffer* argument,
               std::promise<void>* end) {
  ExecuteOptions options{};
  options.struct_size = sizeof(options);
  Buffer* const arguments[] = {argument};
  Buffer* const* const lists[] = {arguments};
  Buffer* results[] = {nullptr};
  Buffer** const outputs[] = {results};
  Event* complete[] = {nullptr};
  Question<Slot::kLoadedExecutableExecute> execute;
  execute.loaded = loaded;
  execute.options = &options;
  execute.arguments = lists;
  execute.num_devices = 1;
  execute.num_arguments = 1;
  execute.outputs = outputs;
  execute.complete = end != nullptr ? complete : nullptr;
  plugin.Call(&execute);
  if (end != nullptr) {
    Question<Slot::kEventOnReady> ready;
    ready.event = complete[0];
    ready.callback = [](Error* /*error*/, void* user) {
      static_cast<std::promise<void>*>(user)->set_value();
    };
    ready.user = end;
    plugin.Call(&ready);
    DestroyEvent(plugin, complete[0]);
  }
  return results[0];
}

using Bytes = const std::byte* (*)(const Buffer*);

void Use(const Plugin& plugin, Client* client, LoadedExecutable* plain, LoadedExecutable* donating,
         Bytes bytes_of, unsigned seed) {
  std::mt19937 random(seed);
  for (int step = 0; step < kSteps; ++step) {
    std::vector<float> values(1 + random() % 500, static_cast<float>(seed * kSteps + step));
    Buffer* argument = Upload(plugin, client, values);
    if (random() % 3 == 0) {  // Of which nobody wants to know the end.
      Destroy(plugin, Launch(plugin, plain, argument, nullptr));
    }
    std::promise<void> end;
    Buffer* result = Launch(plugin, random() % 2 != 0 ? donating : plain, argument, &end);
    // The plugin still has to read it.
    Destroy(plugin, argument);
    Buffer* other = Upload(plugin, client, std::vector<float>(values.size(), -1.0F));
    end.get_future().wait();
    Require(std::memcmp(bytes_of(result), values.data(), values.size() * sizeof(float)) == 0,
            "a launch read what was uploaded after it");
    std::promise<void> again;
    Buffer* last = Launch(plugin, donating, result, &again);
    again.get_future().wait();
    for (Buffer* buffer : {result, other, last}) Destroy(plugin, buffer);
  }
}

void CheckNothingLeft() {
  const Statistics& s = statistics;
  Require(s.placements_made > 0 && s.views_kept_from_donation > 0, "nothing was placed");
  Require(s.placements_made == s.placements_ended, "a placement is left");
  Require(s.records_made == s.records_ended, "a record of a buffer is left");
  Require(s.launches_made == s.launches_ended, "a launch is left");
  Require(s.executables_made == s.executables_ended, "an executable is left");
  Require(s.tenants_made == s.tenants_ended, "a tenant is left");
}

void DestroyClient(const Plugin& plugin, Client* client) {
  Question<Slot::kClientDestroy> destroy;
  destroy.client = client;
  plugin.Call(&destroy);
}

Memory* MemoryOf(Client* client) {
  Question<Slot::kDeviceDefaultMemory> memory;
  memory.device = DeviceOf(client);
  wrapped->Call<Slot::kDeviceDefaultMemory>(&memory);
  return memory.memory;
}

std::int64_t UsedBytes(const Plugin& plugin, Client* client) {
  Question<Slot::kDeviceMemoryStats> stats;
  stats.device = DeviceOf(client);
  plugin.Call(&stats);
  return stats.bytes_in_use;
}

// A transfer manager for arrays of these lengths.
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

struct Alias {
  Buffer* buffer;
  Fulfilment* fulfilment;
};

Alias MakeAlias(const Plugin& plugin, Client* client, std::int64_t length) {
  Question<Slot::kClientCreateAliasBuffer> create;
  create.client = client;
  create.memory = MemoryOf(client);
  create.dims = &length;
  create.num_dims = 1;
  create.type = kF32;
  plugin.Call(&create);
  return {create.alias, create.fulfilment};
}

// A launch that took an alias before it was fulfilled reads the view that it came to show, whose
// handle, like the alias's, is gone by then.
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
  Question<Slot::kClientFulfillAliasBuffer> fulfill;
  fulfill.client = client;
  fulfill.buffer = view;
  fulfill.fulfilment = alias.fulfilment;
  plugin.Call(&fulfill);
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
  fulfill.buffer = nullptr;
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
  device->colours = missile::ColourSet({0, 2});
  check(s.uploads_passed_colours, "of some colours alone", as_it_is);
  device->colours = missile::ColourSet();
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

void CheckCap(const Plugin& plugin) {
  Client* client = MakeClient(plugin, {{"missile_memory", "6000"}, {"missile_tenant", "small"}});
  std::vector<float> values(1000);
  Buffer* fits = Upload(plugin, client, values);
  const auto size = static_cast<std::int64_t>(values.size());
  auto upload = UploadOf(client, values.data(), &size);
  const std::string refusal = plugin.Refusal(&upload);
  Require(refusal ==
              "missile: tenant 'small' asks for 4000 bytes of device 0 for an upload; it has "
              "4000 of the 6000 that MISSILE_PJRT_MEMORY allows, 0 of them temporaries of "
              "launches in flight",
          refusal.c_str());
  Destroy(plugin, fits);
  Destroy(plugin, Upload(plugin, client, values));
  DestroyClient(plugin, client);

  Question<Slot::kClientCreate> create;
  NamedValue option{};
  option.name = "missile_weight";
  option.name_size = std::strlen(option.name);
  option.type = NamedValueType::kFloat;
  option.float_value = -1.0F;
  create.options = &option;
  create.num_options = 1;
  Require(plugin.Refusal(&create).find("option WEIGHT is '-1.0") != std::string::npos,
          "a bad weight was taken");
}

void CheckOptions() {
  Require(ParseBytes("2GiB") == std::uint64_t{2} << 30 && ParseBytes("1.5 KB") == 1500 &&
              ParseBytes("7") == 7,
          "a size was misread");
  for (const char* text : {"", "GiB", "-1", "1XB", "nan", "1e30TiB", "0x"}) {
    try {
      ParseBytes(text);
      Require(false, text);
    } catch (const std::invalid_argument&) {
    }
  }
  struct Bad {
    const char* name;
    const char* value;
  };
  for (const Bad& bad : {Bad{"CLASS", "first"}, Bad{"LAUNCHES", "0"}, Bad{"LAUNCHES", "1.5"},
                         Bad{"TENANT", ""}, Bad{"TIMEOUT_S", "-1"}, Bad{"STATISTICS", "yes"}}) {
    const std::string value = bad.value;
    try {
      ReadOptions([&](const std::string& name) { return name == bad.name ? &value : nullptr; });
      Require(false, bad.name);
    } catch (const std::invalid_argument& error) {
      Require(std::string(error.what()).find(bad.name) != std::string::npos, error.what());
    }
  }
}

void CheckGate() {
  Options options;
  options.launches = 1;
  std::unique_ptr<Gate> gate = MakeGate(options);
  LaunchInfo first;
  first.launch = 1;
  LaunchInfo second;
  second.launch = 2;
  Require(gate->Enter(first, kNoDeadline), "the first had to wait");
  Require(!gate->Enter(second, missile::NowNs()), "two were let in at once");
  std::thread later([&] { Require(gate->Enter(second, kNoDeadline), "the second was refused"); });
  gate->Leave(first, 1);
  later.join();
  gate->Leave(second, 1);
  // Within a launch of host code, others do not wait.
  first.host_callback = true;
  Require(gate->Enter(first, kNoDeadline) && gate->Enter(second, missile::NowNs()),
          "a launch waited for the one it is part of");
  gate->Leave(second, 1);
  gate->Leave(first, 1);
  Require(gate->Enter(second, missile::NowNs()), "the bound was not free again");
}

void CheckAccount() {
  Account account("t", 0, 1000);
  Require(account.Charge(400) && !account.Charge(601), "the limit does not hold");
  Require(account.ChargeLaunch(100, 400, 0, false), "a launch that fits was refused");
  std::promise<bool> second;
  std::thread waiting([&] { second.set_value(account.ChargeLaunch(0, 300, 0, false)); });
  account.EndLaunch(400, false);
  Require(second.get_future().get(), "a launch did not wait for temporaries");
  waiting.join();
  account.EndLaunch(300, false);
  Require(!account.ChargeLaunch(501, 0, 0, false), "a launch went over the limit");
  Require(account.ChargeLaunch(400, 0, 400, false), "memory that is returned was not counted");
  account.Release(400);
  Require(account.Stats().used_bytes == 500 && account.Stats().peak_bytes == 900, "misaccounted");
}

void CheckDonations() {
  // input_output_alias {entries {parameter_number: 3} entries {}}, buffer_donor {entries {2}}.
  const std::string module("\x42\x06\x0a\x02\x10\x03\x0a\x00\x92\x01\x04\x0a\x02\x08\x02", 15);
  const auto read = ReadDonations(module, false);
  Require(read.has_value() && read->aliased == std::vector<std::int64_t>({0, 3}) &&
              read->all == std::vector<std::int64_t>({0, 2, 3}),
          "donations were misread");
  Require(ReadDonations(std::string("\x0a\x0f", 2) + module, true)->all.size() == 3, "no module");
  Require(!ReadDonations("\x42\x7f", false).has_value(), "half a message was read");
}

}  // namespace

int main(int argc, char** argv) {
  Require(argc == 2, "wants the plugin to wrap");
  setenv("MISSILE_PJRT_LIBRARY", argv[1], 1);
  void* fake = dlopen(argv[1], RTLD_NOW);
  Require(fake != nullptr, "no plugin to wrap");
  auto bytes_of = reinterpret_cast<Bytes>(dlsym(fake, "FakeBytes"));
  auto most_in_flight = reinterpret_cast<int (*)()>(dlsym(fake, "FakeMostInFlight"));
  CheckOptions();
  CheckGate();
  CheckAccount();
  CheckDonations();

  const Plugin plugin(GetPjrtApi());
  Client* client = MakeClient(
      plugin,
      {{"known", "1"}, {"missile_launches", std::to_string(kBound)}, {"missile_arena", "8KiB"}});
  LoadedExecutable* plain = Compile(plugin, client, "copy");
  LoadedExecutable* donating = Compile(plugin, client, "copy, buffer_donor");
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (unsigned seed = 0; seed < kThreads; ++seed) {
    threads.emplace_back([&, seed] { Use(plugin, client, plain, donating, bytes_of, seed); });
  }
  for (std::thread& thread : threads) thread.join();
  std::promise<void> end;
  Buffer* argument = Upload(plugin, client, {1.0F});
  Buffer* result = Launch(plugin, plain, argument, &end);  // Behind all others.
  end.get_future().wait();
  Destroy(plugin, argument);
  Destroy(plugin, result);
  Require(most_in_flight() <= kBound, "more launches were in flight than may be");
  for (LoadedExecutable* loaded : {plain, donating}) {
    Question<Slot::kLoadedExecutableDestroy> destroy;
    destroy.loaded = loaded;
    plugin.Call(&destroy);
  }
  DestroyClient(plugin, client);
  CheckCap(plugin);
  CheckTransfers(plugin, bytes_of);
  CheckAliases(plugin, bytes_of, reinterpret_cast<void (*)(bool)>(dlsym(fake, "FakePause")));
  const std::int64_t full = statistics.uploads_passed_full;
  CheckCounts(plugin);
  CheckNothingLeft();
  Require(full > 0, "the arena was never full");
  std::printf("%lld launches, %lld uploads placed, %lld passed\n",
              static_cast<long long>(statistics.launches),
              static_cast<long long>(statistics.uploads_placed),
              static_cast<long long>(statistics.uploads_passed_full));
  return 0;
}
