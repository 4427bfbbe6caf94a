#include "tenant.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "../src/clock.h"
#include "../src/cuda_device.h"
#include "../src/cuda_mover.h"
#include "../src/cuda_region.h"
#include "errors.h"
#include "statistics.h"
#include "wrapped.h"

namespace missile::pjrt {

// Who is here, by the plugin's handles.
class Tenants {
 public:
  void Add(Client* client, const std::shared_ptr<Tenant>& tenant) {
    std::unique_lock lock(mutex_);
    clients_[client] = tenant;
    for (const auto& [device, state] : tenant->devices_) {
      devices_[device] = state;
      memories_[state->memory] = state;
    }
  }

  std::shared_ptr<Tenant> Remove(const Client* client) {
    std::unique_lock lock(mutex_);
    auto found = clients_.find(client);
    if (found == clients_.end()) return nullptr;
    std::shared_ptr<Tenant> tenant = std::move(found->second);
    clients_.erase(found);
    for (const auto& [device, state] : tenant->devices_) {
      devices_.erase(device);
      memories_.erase(state->memory);
    }
    return tenant;
  }

  std::shared_ptr<Tenant> Find(const Client* client) { return FindIn(clients_, client); }
  std::shared_ptr<TenantDevice> Find(const Device* device) { return FindIn(devices_, device); }
  std::shared_ptr<TenantDevice> Find(const Memory* memory) { return FindIn(memories_, memory); }

 private:
  template <typename Map, typename Key>
  typename Map::mapped_type FindIn(const Map& map, const Key* key) {
    std::shared_lock lock(mutex_);
    auto found = map.find(key);
    return found == map.end() ? nullptr : found->second;
  }

  std::shared_mutex mutex_;
  std::unordered_map<const Client*, std::shared_ptr<Tenant>> clients_;
  std::unordered_map<const Device*, std::shared_ptr<TenantDevice>> devices_;
  std::unordered_map<const Memory*, std::shared_ptr<TenantDevice>> memories_;
};

namespace {

Tenants& All() {
  static auto* const all = new Tenants;  // Never ended: callbacks may come at the very end.
  return *all;
}

// As backing.py has them.
constexpr std::uint64_t kHostAlignment = 64;
constexpr std::uint64_t kCudaAlignment = 256;
constexpr int kCudaThreads = 2;

// Links are a device's: tenants of one process share them.
std::shared_ptr<Link> SharedLink(int key, const std::function<std::shared_ptr<Link>()>& make) {
  static std::mutex mutex;
  static auto* const links = new std::map<int, std::weak_ptr<Link>>;
  std::lock_guard lock(mutex);
  std::shared_ptr<Link> link = (*links)[key].lock();
  if (link == nullptr) (*links)[key] = link = make();
  return link;
}

constexpr int kHostLink = -1;

void OpenOnHost(TenantDevice* device, std::uint64_t arena_bytes) {
  // Pages come as they are written to: most tenants never fill their arena.
  device->arena = std::make_shared<Arena>(arena_bytes, kHostAlignment, /*prefault=*/false,
                                          /*huge_pages=*/true);
  device->link = SharedLink(kHostLink, [] { return std::make_shared<Link>(LinkOptions{}); });
  device->on_host = true;
}

void OpenOnCuda(TenantDevice* device, std::uint64_t arena_bytes) {
  auto cuda = std::make_shared<const CudaDevice>(device->ordinal, "");
  const std::uint64_t bytes = Arena::RegionBytes(arena_bytes, kCudaAlignment);
  device->arena =
      std::make_shared<Arena>(std::make_unique<CudaRegion>(cuda, bytes), kCudaAlignment);
  device->link = SharedLink(device->ordinal, [&] {
    LinkOptions options;
    options.threads = kCudaThreads;
    auto stream = std::make_shared<const CudaStream>(cuda);
    return std::make_shared<Link>(options, [&] {
      return std::make_unique<CudaMover>(stream, Direction::kToDevice, options.chunk_bytes);
    });
  });
}

// What the plugin calls the processor and NVIDIA's GPUs. Memory of others is not ours to write to.
std::string PlatformOf(Client* client) {
  Question<Slot::kClientPlatformName> name;
  name.client = client;
  return Ask(&name) ? std::string(name.name, name.name_size) : "";
}

}  // namespace

TenantDevice::~TenantDevice() {
  if (flow != nullptr) flow->Close();
}

Tenant::Tenant(Client* client, Options options) : options_(std::move(options)) {
  const std::string platform = PlatformOf(client);
  Question<Slot::kClientAddressableDevices> all;
  all.client = client;
  if (!Ask(&all)) throw std::runtime_error("the wrapped plugin does not tell its devices");
  static std::atomic<int> number{0};
  for (std::size_t i = 0; i < all.num_devices; ++i) {
    Question<Slot::kDeviceLocalHardwareId> id;
    id.device = all.devices[i];
    const int ordinal = Ask(&id) && id.id >= 0 ? id.id : static_cast<int>(i);
    auto device = std::make_shared<TenantDevice>(options_.tenant, ordinal, options_.memory_bytes);
    Question<Slot::kDeviceDefaultMemory> memory;
    memory.device = all.devices[i];
    if (Ask(&memory)) device->memory = memory.memory;
    std::uint64_t arena_bytes = options_.arena_bytes;
    if (options_.memory_bytes != 0) arena_bytes = std::min(arena_bytes, options_.memory_bytes);
    if (arena_bytes != 0) {
      if (platform == "cpu") OpenOnHost(device.get(), arena_bytes);
      if (platform == "cuda" || platform == "gpu") OpenOnCuda(device.get(), arena_bytes);
    }
    if (device->link != nullptr) {
      device->flow =
          device->link->AddFlow(options_.tenant + "#" + std::to_string(++number), options_.weight,
                                options_.service_class == ServiceClass::kLatency);
    }
    devices_.emplace_back(all.devices[i], std::move(device));
  }
  gate_ = MakeGate(options_);
  Count(statistics.tenants_made);
}

Tenant::~Tenant() { Count(statistics.tenants_ended); }

std::int64_t Tenant::Deadline() const {
  if (options_.timeout_s == 0.0) return kNoDeadline;
  return NowNs() + static_cast<std::int64_t>(std::min(options_.timeout_s, 1e9) * 1e9);
}

std::int64_t Tenant::DeviceNs(std::int64_t started_ns, std::int64_t ended_ns) {
  const std::int64_t before_ns = last_end_ns_.exchange(ended_ns);
  return std::max<std::int64_t>(ended_ns - std::max(started_ns, before_ns), 1);
}

std::shared_ptr<Tenant> FindTenant(const Client* client) { return All().Find(client); }
std::shared_ptr<TenantDevice> FindDevice(const Device* device) { return All().Find(device); }
std::shared_ptr<TenantDevice> FindMemory(const Memory* memory) { return All().Find(memory); }

namespace {

constexpr std::string_view kOptionPrefix = "missile_";

std::string TextOf(const NamedValue& value) {
  switch (value.type) {
    case NamedValueType::kString:
      return {value.string_value, value.value_size};
    case NamedValueType::kInt64:
      return std::to_string(value.int64_value);
    case NamedValueType::kFloat:
      return std::to_string(value.float_value);
    case NamedValueType::kBool:
      return value.bool_value ? "1" : "0";
    default:
      throw std::invalid_argument("option " + std::string(value.name, value.name_size) +
                                  " is a list, and must be a text or a number");
  }
}

// Takes the wrapper's own options out of the plugin's, which knows none of them.
Options TakeOptions(const Arguments<Slot::kClientCreate>& args, std::vector<NamedValue>* others) {
  std::unordered_map<std::string, std::string> own;
  for (std::size_t i = 0; i < args.num_options; ++i) {
    const NamedValue& value = args.options[i];
    std::string_view name(value.name, value.name_size);
    if (name.substr(0, kOptionPrefix.size()) != kOptionPrefix) {
      others->push_back(value);
      continue;
    }
    std::string key(name.substr(kOptionPrefix.size()));
    std::transform(key.begin(), key.end(), key.begin(), ::toupper);
    own[key] = TextOf(value);
  }
  std::string found;
  return ReadOptions([&](const std::string& name) -> const std::string* {
    if (auto option = own.find(name); option != own.end()) return &option->second;
    const char* variable = std::getenv(("MISSILE_PJRT_" + name).c_str());
    if (variable == nullptr || *variable == '\0') return nullptr;
    found = variable;
    return &found;
  });
}

Error* ClientCreate(Arguments<Slot::kClientCreate>* args) {
  std::vector<NamedValue> others;
  Options options;
  try {
    options = TakeOptions(*args, &others);
  } catch (const std::invalid_argument& error) {
    return MakeError(Code::kInvalidArgument, error.what());
  }
  const NamedValue* given = args->options;
  const std::size_t num_given = args->num_options;
  args->options = others.data();
  args->num_options = others.size();
  Error* error = wrapped->Call<Slot::kClientCreate>(args);
  args->options = given;
  args->num_options = num_given;
  if (error != nullptr) return error;
  try {
    All().Add(args->client, std::make_shared<Tenant>(args->client, std::move(options)));
  } catch (const std::exception& failure) {
    Question<Slot::kClientDestroy> destroy;
    destroy.client = args->client;
    Ask(&destroy);
    args->client = nullptr;
    return MakeError(Code::kFailedPrecondition, failure.what());
  }
  return nullptr;
}

Error* ClientDestroy(Arguments<Slot::kClientDestroy>* args) {
  // Kept until the plugin has waited for its launches.
  std::shared_ptr<Tenant> tenant = All().Remove(args->client);
  return wrapped->Call<Slot::kClientDestroy>(args);
}

}  // namespace

void OverrideClients(Table* table) {
  table->Override<Slot::kClientCreate>(ClientCreate);
  table->Override<Slot::kClientDestroy>(ClientDestroy);
}

}  // namespace missile::pjrt
